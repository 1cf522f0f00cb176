"""Prepare data sets: download, unpack, arrange, check.

    python -m datasets.prepare Caltech101 EuroSAT --root DATA
    python -m datasets.prepare ImageNet --root DATA --from-dir ~/Downloads    # archives that you have already
    python -m datasets.prepare --list

Existing files are kept, so a second run continues where the first stopped. Exit status 1 if a data set is incomplete at
the end; the remaining manual steps are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, errors_in_one_line


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


if __name__ == "__main__":  # before the imports that take seconds
    make_prepare_parser().parse_args()

from dassl.utils import UserError
from datasets.acquire.names import downloadable, generated, reader_name, readers
from datasets.acquire.prepare import PrepareOptions, prepare
from datasets.layout.base import full_path


def list_sources() -> None:
    """Print every file of every data set with its address."""
    for name in downloadable():
        print(f"{name} ({readers()[name].dataset_dir}/)")
        for source in (source for piece in readers()[name].pieces for source in piece.sources):
            drive = f"https://drive.google.com/file/d/{source.drive_id}/view" if source.drive_id else ""
            print(f"  {source.file:36s} {source.url or drive or 'by hand: ' + source.by_hand}")
    print(f"generated, nothing to download: {', '.join(generated())}")


def run(args: argparse.Namespace) -> bool:
    """Prepare the data sets that the arguments name; returns whether all are valid."""
    if args.list:
        list_sources()
        return True
    if not args.names:
        raise UserError("which data sets? name them, or see --list")
    if not args.root:
        raise UserError("where to? give --root DATA (or set DATA)")
    from_dir = full_path(args.from_dir) if args.from_dir else ""
    if from_dir and not os.path.isdir(from_dir):
        raise UserError(f"folder {from_dir} is missing; check --from-dir")
    options = PrepareOptions(full_path(args.root), from_dir, args.mirror, args.any_hash, args.keep_archives)
    names = downloadable() if args.names == ["all"] else [reader_name(name) for name in args.names]
    return all([_prepare_and_report(name, options) for name in names])


def _prepare_and_report(name: str, options: PrepareOptions) -> bool:
    """Prepare one data set; an error does not stop the others."""
    try:
        return prepare(name, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    try:
        return 0 if run(make_prepare_parser().parse_args(argv)) else 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
