"""Take a trained classifier out of the project: class weights, prompted image tower, prompt file, plain script.

python export.py --model-dir output/try --output-dir exported
"""

from __future__ import annotations

import argparse

from dassl.command_line import end_imports_in_one_line, errors_in_one_line, tell_of_imports
from deploy.arguments import parse_export_args as parse_args

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    parse_args()
    tell_of_imports()

from dassl.utils.memory import keep_freed_memory
from deploy.command_line import read_class_names, source_of
from deploy.export import export


def main(args: argparse.Namespace) -> None:
    """Export, and print a line for each file.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    manifest = export(source_of(args), args.output_dir, read_class_names(args.classes), args.formats)
    for name, file in manifest["files"].items():
        deviation = f", within {file['largest_deviation']:.1e} of PyTorch" if "largest_deviation" in file else ""
        print(f"{args.output_dir}/{name}: {file['bytes']:,} bytes{deviation}")
    if manifest["class_weights_depend_on_image"]:
        print(f"{manifest['trainer']}'s class weights depend on the image: only image tower and prompts were exported")


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
