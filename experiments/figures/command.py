"""The command line of the figures: each is drawn from a run's folder and written as PNG and PDF."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import matplotlib

from dassl.engine.found_models import folders_beside
from dassl.utils import MissingFileError, UserError, printable
from dassl.utils.locks import locked_while_writing
from experiments.arguments import make_parser

from . import kinds
from .drawing import STYLE, Asked, Drawing, names_by_place, write


def main(arguments: Sequence[str]) -> int:
    """Draw one figure for each run, and print where it is.

    Returns:
        Exit status 0.

    Raises:
        UserError: something that the figure needs is missing or cannot be read; figures that were drawn before stay.
    """
    args = make_parser().parse_args(["figures", *arguments])
    kind = importlib.import_module(f"{kinds.__name__}.{args.kind}")
    _check(args.runs, kind, args.kind, args.images, args.root)
    with matplotlib.rc_context(STYLE):
        for drawing, folder in _placed(kind.draw(Asked(args.runs, args.images, args.root)), args.runs, args.output_dir):
            print(printable(drawing.summary))
            with locked_while_writing(folder):
                for path in write(drawing.figure, folder / args.kind):
                    print(f"written: {printable(path)}")
    return 0


def _check(runs: Sequence[Path], kind: ModuleType, name: str, images: Path | None, root: str) -> None:
    """Raise UserError if the arguments do not fit together."""
    takes_images = getattr(kind, "TAKES_IMAGES", False)
    for flag, given in (("--images", images is not None), ("--root", bool(root))):
        if given and not takes_images:
            raise UserError(f"{flag} has no effect on --kind {name}, which reads no images: leave it out")
    if images is not None and root:
        raise UserError("--images and --root name two sources of images: give one of them")
    for run in runs:
        if not run.is_dir():
            raise MissingFileError(f"no such folder: {run} (give the output folder of a run); {folders_beside(run)}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("a run's folder is given twice: give it once")


def _placed(drawings: Iterator[Drawing], runs: Sequence[Path], output: Path | None) -> Iterator[tuple[Drawing, Path]]:
    """Each drawing with its folder: below the run's, or in `output`, where several runs keep their own folders."""
    below = dict(zip(runs, names_by_place(runs), strict=True))
    for drawing in drawings:
        yield drawing, drawing.run / "figures" if output is None else output / below[drawing.run]
