"""Operations that trainer files import from `dassl.modeling.ops`. Expected values: by hand, from the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dassl.modeling.ops import (
    ReverseGrad,
    create_onehot,
    ema_model_update,
    linear_rampup,
    mixup,
    reverse_index,
    sharpen_prob,
    shuffle_index,
    sigmoid_rampup,
)


def test_mixtures_of_images_and_labels_have_the_same_weight():
    ones, zeros = torch.ones(50, 1, 2, 2), torch.zeros(50, 1, 2, 2)
    labels = torch.eye(2)[:, None].expand(2, 50, 2)
    torch.manual_seed(0)
    images, mixed = mixup(ones, zeros, labels[0], labels[1], beta=0.5)
    lam = torch.distributions.Beta(0.5, 0.5)
    torch.manual_seed(0)
    expected = lam.sample([50, 1, 1, 1]).flatten()
    assert torch.equal(images, expected.view(-1, 1, 1, 1).expand_as(images))
    assert torch.equal(mixed, torch.stack([expected, 1 - expected], dim=1))
    assert (expected < 0.5).any()
    ordered, _ = mixup(ones, zeros, labels[0], labels[1], beta=0.5, preserve_order=True)
    assert (ordered >= 0.5).all()


def test_the_gradient_is_reversed_and_scaled():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = ReverseGrad()(x, grad_scaling=0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-1.5, -2.0]


def test_labels_and_probabilities():
    assert create_onehot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert sharpen_prob(torch.tensor([[0.6, 0.2, 0.2]]))[0].tolist() == pytest.approx([9 / 11, 1 / 11, 1 / 11])
    data, label = torch.arange(20.0).view(10, 2), torch.arange(10)
    assert [part.tolist() for part in reverse_index(data, label)] == [data.tolist()[::-1], label.tolist()[::-1]]
    shuffled, order = shuffle_index(data, label)
    assert torch.equal(shuffled, data[order]) and sorted(order.tolist()) == label.tolist()
    assert order.tolist() != label.tolist()  # one in 10! orders


def test_ramps():
    assert [linear_rampup(epoch, 4) for epoch in (-1, 0, 1, 4, 9)] == [0, 0, 0.25, 1, 1]
    assert [sigmoid_rampup(epoch, 4) for epoch in (0, 2, 9)] == pytest.approx([math.exp(-5), math.exp(-1.25), 1])
    assert linear_rampup(0, 0) == sigmoid_rampup(0, 0) == 1


def test_moving_average():
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(model.weight, 1.0)
    nn.init.constant_(average.weight, 3.0)
    ema_model_update(model, average, decay=0.75)
    assert average.weight.item() == 2.5 and model.weight.item() == 1.0
