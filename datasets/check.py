"""Verify data sets on disk.

    python -m datasets.check --root DATA                      # all data sets, every image decoded
    python -m datasets.check --root DATA --fast Caltech101    # one, a sample of images
    python -m datasets.check --path my_images/                # custom data

Prints one line per data set, then one for each unreadable file and for ignored files, then the number of images of each
class. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from dassl.command_line import ArgumentParser, errors_in_one_line, number_from
from dassl.image_bounds import MAX_ASPECT_RATIO, MAX_PIXELS
from datasets.acquire import FAST_SAMPLE


def make_check_parser() -> ArgumentParser:
    """The parser of `datasets.check`."""
    parser = ArgumentParser(
        prog="python -m datasets.check",
        description="Verify data sets on disk: split files, class counts, and that every image can be decoded.",
        examples=("--root data", "--root data --fast Caltech101", "--path my_images/"),
    )
    parser.add_argument("names", nargs="*", help="data sets (default: the fifteen, and existing generated ones)")
    parser.add_argument("--root", default=os.environ.get("DATA"), help="folder of the data sets (default: $DATA)")
    parser.add_argument(
        "--path", help="check this image folder or CSV file (custom data) instead (default: the data sets in --root)"
    )
    parser.add_argument("--fast", action="store_true", help=f"decode {FAST_SAMPLE} images per data set, not all")
    parser.add_argument("--per-class", action="store_true", help="one line for each class, not one for several")
    parser.add_argument(
        "--max-pixels",
        type=number_from(1),
        default=MAX_PIXELS,
        help="most pixels of an image, as INPUT.MAX_PIXELS in training",
    )
    parser.add_argument(
        "--max-aspect-ratio",
        type=number_from(1),
        default=MAX_ASPECT_RATIO,
        help="largest ratio of an image's sides, as INPUT.MAX_ASPECT_RATIO in training",
    )
    return parser


def parse_check(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `datasets.check`."""
    parser = make_check_parser()
    args = parser.parse_args(arguments)
    if any("." in name for name in args.names):
        parser.error("config keys are not accepted here; --max-pixels and --max-aspect-ratio set the limits for images")
    if args.path and args.names:
        parser.error(f"--path is checked alone: leave out {' '.join(args.names)}")
    return args


if __name__ == "__main__":  # before the imports that take seconds
    parse_check()

from dassl.utils import UserError, read_image
from datasets.acquire.check import print_report
from datasets.acquire.class_counts import compact_lines, table_lines
from datasets.acquire.names import downloadable, expected_counts, generated, reader_name, readers
from datasets.custom_csv import ImageCSV
from datasets.custom_folder import ImageFolder
from datasets.layout.base import full_path


def run(args: argparse.Namespace) -> bool:
    """Check the data that the arguments name; returns whether all is valid."""
    describe = table_lines if args.per_class else compact_lines
    read = partial(read_image, max_pixels=args.max_pixels, max_aspect_ratio=args.max_aspect_ratio)
    if args.path:
        path = full_path(args.path)
        reader = (ImageFolder if os.path.isdir(path) else ImageCSV).at(path)
        return print_report(reader, args.fast, None, describe, read)
    if not args.root:
        raise UserError("which data? give --root DATA (or set DATA), or --path for custom data")
    root = full_path(args.root)
    if not os.path.isdir(root):
        raise UserError(f"data folder {root} is missing; check --root")
    there = [name for name in generated() if os.path.isdir(os.path.join(root, readers()[name].dataset_dir))]
    names = [reader_name(name) for name in args.names] or [*downloadable(), *there]
    results = []
    for name in names:
        cls = readers()[name]
        reader = cls.at(os.path.join(root, cls.dataset_dir))
        results.append(print_report(reader, args.fast, expected_counts(name), describe, read))
    return all(results)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    return 0 if run(parse_check(argv)) else 1


if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
