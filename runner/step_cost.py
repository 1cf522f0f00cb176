"""What a training step costs, counted after the training: its floating-point operations."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dassl.engine.anomalies import NonFiniteError
from trainers.core.captured import CapturedFunctions
from trainers.core.trainer import PromptTrainer


class Flops(TorchDispatchMode):
    """Adds up FLOPs by the formulas of `torch.utils.flop_counter`.

    Its own mode follows modules by hooks on their gradients, which `torch.func` does not allow.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imports triton, which takes a second

        super().__init__()
        self.total = 0
        # PyTorch's own, and for a product in place
        self.formulas: dict[Any, Any] = {
            **flop_registry,
            torch.ops.aten.baddbmm_: flop_registry[torch.ops.aten.baddbmm],
        }

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.overloadpacket in self.formulas:
            self.total += int(self.formulas[function.overloadpacket](*args, **kwargs, out_val=result))
        return result


def flops_of_step(trainer: Any) -> int | None:
    """Floating-point operations of a step on the last batch that the trainer had.

    The counter knows products of matrices, convolutions and attention; a multiplication and an addition are two. The
    step is made once more, eagerly, and undone: learned tensors are put back, but not the state of optimisers.

    Args:
        trainer: after its training and its test; nothing may be trained or saved afterwards.

    Returns:
        The number; None if nothing was trained in this process, or by a trainer of another project.
    """
    batch = getattr(trainer, "last_batch", None)
    if batch is None or not isinstance(trainer, PromptTrainer):
        return None
    models = trainer.get_model_names()
    before = {
        name: {key: value.clone() for key, value in trainer._models[name].state_dict().items()} for name in models
    }
    folder, trainer.output_dir = trainer.output_dir, ""  # a loss that is not finite leaves no file
    trainer.captured, trainer.batch_idx = CapturedFunctions(None), 0
    trainer.set_model_mode("train")
    try:
        with Flops() as counted:
            trainer.forward_backward(*batch)
    except NonFiniteError:
        return None
    finally:
        for name, state in before.items():
            trainer._models[name].load_state_dict(state)
        trainer.output_dir = folder
        trainer.set_model_mode("eval")
    return counted.total
