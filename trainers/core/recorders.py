"""Which recorder a trainer's configuration asks for."""

from __future__ import annotations

import torch

from dassl.utils import UserError
from trainers.core.captured import CudaRecorder, Recorder
from trainers.core.replay import MOST_BYTES, CpuRecorder

CHOICES = ("auto", "on", "off")


def choose_recorder(cuda_graph: str, cpu_replay: str, device: torch.device) -> Recorder | None:
    """The recorder of steps and test batches on a device.

    Args:
        cuda_graph: TRAINER.CUDA_GRAPH; auto and on: CUDA graphs on a GPU.
        cpu_replay: TRAINER.CPU_REPLAY; auto: replays on a CPU where they save time, on: wherever they are possible.
        device: where steps run.

    Returns:
        The recorder; None: steps run eagerly.

    Raises:
        UserError: unknown choice.
    """
    for key, choice in (("CUDA_GRAPH", cuda_graph), ("CPU_REPLAY", cpu_replay)):
        if choice not in CHOICES:
            raise UserError(f"unknown TRAINER.{key} {choice!r}: choose one of {', '.join(CHOICES)}")
    if cuda_graph == "on" and device.type != "cuda":
        print(f"TRAINER.CUDA_GRAPH on needs a GPU: on a CPU, TRAINER.CPU_REPLAY ({cpu_replay}) says what is replayed")
    if device.type == "cuda":
        return None if cuda_graph == "off" else CudaRecorder(device)
    if device.type != "cpu" or cpu_replay == "off":
        return None
    return CpuRecorder(MOST_BYTES if cpu_replay == "auto" else None)


def recorder_for(device: torch.device) -> Recorder:
    """The recorder of a device, without a bound on the size of tensors."""
    recorder = choose_recorder("auto", "on", device)
    assert recorder is not None, f"nothing is recorded on {device}"
    return recorder
