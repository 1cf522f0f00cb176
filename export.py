"""Take a trained classifier out of the project: class weights, prompted image tower, prompt file, plain script.

python export.py --checkpoint output/try --output exported
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, end_imports_in_one_line, errors_in_one_line

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()

from dassl.utils.memory import keep_freed_memory
from deploy.command_line import add_source_arguments, read_class_names, source_of
from deploy.export import FORMATS, export


def main(args: argparse.Namespace) -> None:
    """Export, and print a line for each file.

    Raises:
        UserError: something the user can fix, said in one line.
    """
    manifest = export(source_of(args), args.output, read_class_names(args.classes), args.formats)
    for name, file in manifest["files"].items():
        deviation = f", within {file['largest_deviation']:.1e} of PyTorch" if "largest_deviation" in file else ""
        print(f"{args.output}/{name}: {file['bytes']:,} bytes{deviation}")
    if manifest["class_weights_depend_on_image"]:
        print(f"{manifest['trainer']}'s class weights depend on the image: image tower and prompts are exported alone")


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description="Export a trained classifier.")
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, metavar="OUT", help="folder for the exported files")
    parser.add_argument(
        "--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS), help="graphs of the tower"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
