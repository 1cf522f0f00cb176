"""The command lines of `datasets.check` and `datasets.prepare`. Imports nothing slow."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, number_from
from dassl.image_bounds import MAX_ASPECT_RATIO, MAX_PIXELS

FAST_SAMPLE = 200
"""Images per data set that a fast check decodes."""


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


def make_prepare_parser() -> ArgumentParser:
    """The parser of `datasets.prepare`."""
    parser = ArgumentParser(
        prog="python -m datasets.prepare",
        description="Download data sets, arrange and check them. Existing files are kept.",
        examples=("Caltech101 EuroSAT --root data", "ImageNet --root data --from-dir ~/Downloads", "--list"),
    )
    parser.add_argument("names", nargs="*", help="data sets, by registered name or config file name; or all")
    parser.add_argument("--root", default=os.environ.get("DATA"), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--from-dir", default="", help="folder of archives that you have already (default: none)")
    parser.add_argument(
        "--mirror", default="", help="address that has all files under their own names (default: the files' own)"
    )
    parser.add_argument("--any-hash", action="store_true", help="accept --from-dir archives with an unknown MD5")
    parser.add_argument("--keep-archives", action="store_true", help="keep downloaded archives in ROOT/.downloads")
    parser.add_argument("--list", action="store_true", help="print the source of each data set, and stop")
    return parser
