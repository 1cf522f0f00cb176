"""The prompted image tower as its own graph, for `torch.export` and ONNX; both are compared with the original."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from clip.model import CLIP
from dassl.utils import UserError, write_bytes_atomically
from trainers.core.prompts import Prompts, normalised

INPUT, OUTPUT = "images", "features"
LARGEST_SINGLE_ONNX = 1 << 30
"""Bytes of weights above which they are kept in a file beside the ONNX file, whose format is limited to 2 GiB."""
ONNX_WEIGHTS_ENDING = ".data"
"""What onnxscript adds to the name for that other file."""
CHECKED_BATCHES = (1, 2, 5)
LARGEST_DEVIATION = 1e-4
"""Of normalised features; a larger deviation is not rounding: the graph is wrong."""


class ImageTower(nn.Module):
    """Normalised pixels [B, 3, H, W] -> normalised features [B, e]. The learned tensors are constants in it.

    These are the visual prompts, or all learned tensors if the method has its own image encoder.
    """

    def __init__(self, clip: CLIP, prompts: Prompts) -> None:
        super().__init__()
        self.visual = clip.visual
        with torch.no_grad():
            visual = list(prompts.visual_prompts(prompts.tensors()))
        self.prompts = nn.ParameterList(nn.Parameter(prompt.detach().clone(), False) for prompt in visual)
        adapted = type(prompts).image_features is not Prompts.image_features
        learned = prompts.tensors() if adapted else {}
        self._adapted, self._names = (prompts,) if adapted else (), list(learned)  # in a tuple: no submodule
        self.learned = nn.ParameterList(nn.Parameter(tensor.detach().clone(), False) for tensor in learned.values())

    def forward(self, images: Tensor) -> Tensor:
        if self._adapted:
            (prompts,) = self._adapted
            theta = dict(zip(self._names, self.learned, strict=True))
            return normalised(prompts.image_features(theta, images))
        return normalised(self.visual(images, list(self.prompts)) if len(self.prompts) else self.visual(images))

    def example(self, batch: int) -> Tensor:
        """Images [batch, 3, H, W] to try the tower with, the same each time."""
        size = self.visual.input_resolution
        return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def trace(tower: ImageTower) -> ExportedProgram:
    """The tower's graph for any number of images."""
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(tower, (tower.example(2),), dynamic_shapes={INPUT: batch}, strict=False)


def save_pt2(program: ExportedProgram, path: Path) -> None:
    """Write a file that `torch.export.load` reads."""
    archive = io.BytesIO()  # torch's own file writer can end the process if the disk is full
    torch.export.save(program, archive)
    write_bytes_atomically(path, archive.getbuffer())


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX file; needs the packages of `require_onnx`."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it prints a page about its progress
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},
        )
    assert onnx is not None  # with `dynamo`, torch returns the program
    onnx.save(path, external_data=size > LARGEST_SINGLE_ONNX)


def require_onnx() -> None:
    """Check that all packages for ONNX files are installed.

    Raises:
        UserError: one is not.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"an ONNX file needs {', '.join(missing)}: pip install -r requirements-export.txt, or choose --formats pt2"
        )


def pt2_deviation(tower: ImageTower, path: Path) -> float:
    """Largest difference of a saved graph's features, over batches of several sizes.

    Raises:
        UserError: it is not mere rounding.
    """
    loaded = torch.export.load(path).module()
    return _largest_deviation(tower, loaded, path)


def onnx_deviation(tower: ImageTower, path: Path) -> float:
    """As `pt2_deviation`, computed by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return _largest_deviation(tower, lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0]), path)


@torch.no_grad()
def _largest_deviation(tower: ImageTower, other: Callable[[Tensor], Tensor], path: Path) -> float:
    """Largest difference of normalised features.

    Raises:
        UserError: it is not mere rounding.
    """
    largest = 0.0
    for batch in CHECKED_BATCHES:
        images = tower.example(batch)
        largest = max(largest, (other(images) - tower(images)).abs().max().item())
    if not largest < LARGEST_DEVIATION:
        raise UserError(f"{path} computes other features than PyTorch (by {largest:.2g}): do not use it")
    return largest
