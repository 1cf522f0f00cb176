"""A trainer's objective against the formula of its paper, written out plainly and differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 1e-10


def check_objective(trainer, inputs, expected_loss, factor_of=lambda name: 1.0, second=False) -> None:
    """The trainer's loss and gradients against those of a plain function of its learned tensors, in float64.

    Args:
        inputs: as `parse_batch_train` gives them.
        expected_loss: learned tensors by name -> loss.
        factor_of: name of a learned tensor -> what its gradient is multiplied by.
        second: whether second derivatives are compared too.
    """
    theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in trainer.theta().items()}
    loss = expected_loss(theta)
    expected = torch.autograd.grad(loss, list(theta.values()))
    gradients, reported = trainer.gradients_of(trainer.theta(), None, *inputs)
    assert abs(reported["loss"] - loss).item() < LIMIT
    for (name, ours), true in zip(gradients.items(), expected, strict=True):
        assert true.norm() > 1e-6, name
        assert (ours - factor_of(name) * true).norm() < 1e-8 * ours.norm(), name
    if second:
        mine = {name: tensor.detach().clone().requires_grad_() for name, tensor in theta.items()}
        found = second_order(trainer.objective(mine, *inputs)[0], mine)
        expected = second_order(expected_loss(theta), theta)
        for name, ours, true in zip(theta, found, expected, strict=True):
            assert (ours - true).norm() < 1e-7 * true.norm(), name


def second_order(loss: Tensor, theta: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Derivative of the squared norm of a loss's gradient."""
    gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in gradients), list(theta.values()))
