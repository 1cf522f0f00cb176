"""What a CUDA graph does, on a CPU: the recorded call is made again, on the same input and output buffers.

It stands in for `trainers.core.captured.CudaRecorder` where there is no GPU. What it shows: that a function can be
captured (the check for forbidden operations is the same), and that buffers, shapes and copies are handled right.
What it cannot show: speed, and that the CUDA kernels of a step can be captured.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from trainers.core.captured import Capture, CudaRecorder, Recorder, Run


class CpuRecorder:
    """Replays by calling again; the results overwrite the output buffers, as a graph's do."""

    def warm_up(self, run: Run) -> None:
        run()

    def capture(self, run: Run) -> Capture:
        outputs = run()
        buffers = [value for value in tree_leaves(outputs) if isinstance(value, Tensor)]

        def replay() -> None:
            results = [value for value in tree_leaves(run()) if isinstance(value, Tensor)]
            for buffer, result in zip(buffers, results, strict=True):
                buffer.copy_(result)

        return Capture(outputs, replay)


def recorder_for(device: torch.device) -> Recorder:
    """CUDA graphs on a GPU, their stand-in elsewhere."""
    return CudaRecorder(device) if device.type == "cuda" else CpuRecorder()
