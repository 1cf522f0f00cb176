"""The command line of the figures: each is drawn from a run's folder and written as PNG and PDF."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType

import matplotlib

from dassl.engine.found_models import folders_beside
from dassl.utils import MissingFileError, UserError, printable
from dassl.utils.locks import locked_while_writing
from experiments.arguments import make_parser

from . import kinds
from .drawing import STYLE, Asked, names_by_place, write


def main(arguments: Sequence[str]) -> int:
    """Draw one figure for each run, and print where it is.

    Returns:
        Exit status 0.

    Raises:
        UserError: something that the figure needs is missing or cannot be read; figures that were drawn before stay.
    """
    args = make_parser().parse_args(["figures", *arguments])
    kind = importlib.import_module(f"{kinds.__name__}.{args.kind}")
    _check(args, kind)
    below = dict(zip(args.runs, names_by_place(args.runs), strict=True))  # in --output-dir, runs keep their own folders
    with matplotlib.rc_context(STYLE):
        for drawing in kind.draw(Asked(args.runs, args.images, args.root)):
            own = drawing.run / "figures"
            folder = own if args.output_dir is None else args.output_dir / below[drawing.run]
            print(printable(drawing.summary))
            with locked_while_writing(folder):
                for path in write(drawing.figure, folder / args.kind):
                    print(f"written: {printable(path)}")
    return 0


def _check(args: argparse.Namespace, kind: ModuleType) -> None:
    """Check that the arguments fit together.

    Raises:
        UserError: they do not.
    """
    takes_images = getattr(kind, "TAKES_IMAGES", False)
    for flag, given in (("--images", args.images is not None), ("--root", bool(args.root))):
        if given and not takes_images:
            raise UserError(f"{flag} has no effect on --kind {args.kind}, which reads no images: leave it out")
    if args.images is not None and args.root:
        raise UserError("--images and --root name two sources of images: give one of them")
    for run in args.runs:
        if not run.is_dir():
            raise MissingFileError(f"no such folder: {run} (give the output folder of a run); {folders_beside(run)}")
    if len({run.resolve() for run in args.runs}) < len(args.runs):
        raise UserError("a run's folder is given twice: give it once")
