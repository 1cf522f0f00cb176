"""The command lines of `predict.py` and `export.py`. Imports nothing slow, so that mistakes are reported at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, number_from

GRAPH_FORMATS = ("pt2", "onnx")
"""File name endings of the exported image tower."""


def make_predict_parser() -> ArgumentParser:
    """The parser of `predict.py`."""
    parser = ArgumentParser(
        prog="predict.py",
        description="Classify images with a trained model; no data set is needed.",
        examples=(
            "--model-dir output/try --images photo.jpg folder/ --topk 3",
            '--model-dir output/try --images folder/ --classes "cat, dog, tea kettle" --csv > predictions.csv',
            "--model-dir output/try --images folder/ --classes names.txt --json",
        ),
    )
    _add_source_arguments(parser)
    parser.add_argument("--images", required=True, nargs="+", metavar="PATH", help="image files and folders")
    parser.add_argument("--topk", type=int, default=5, help="classes named for each image")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image instead of a table")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: auto, a GPU if there is one)"
    )
    parser.add_argument("--batch-size", type=int, help="images at a time (default: the training's test batch)")
    parser.add_argument("--workers", type=int, help="processes that read images (default: by the number of images)")
    return parser


def parse_predict_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `predict.py`."""
    parser = make_predict_parser()
    args = parser.parse_args(arguments)
    if args.json and args.csv:
        parser.error("--json and --csv exclude each other: give one of them")
    return args


def make_export_parser() -> ArgumentParser:
    """The parser of `export.py`."""
    parser = ArgumentParser(
        prog="export.py",
        description="Take a trained classifier out of the project: class weights, prompted image tower, prompt file, "
        "plain script.",
        examples=("--model-dir output/try --output-dir exported",),
    )
    _add_source_arguments(parser)
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder for the exported files")
    parser.add_argument(
        "--formats", nargs="*", default=list(GRAPH_FORMATS), choices=GRAPH_FORMATS, help="files of the image tower"
    )
    return parser


def parse_export_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `export.py`."""
    return make_export_parser().parse_args(arguments)


def _add_source_arguments(parser: ArgumentParser) -> None:
    """Flags that name a trained model and its classes."""
    parser.add_argument("--model-dir", required=True, metavar="DIR", help="output folder of a training run")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help='file with one class name per line, or names like "cat, dog" (default: the classes of the training)',
    )
    parser.add_argument("--load-epoch", type=number_from(1), help="epoch to load (default: the best or last)")
    parser.add_argument("--backbone", default="", help="CLIP name or file (default: the one of the training)")
    parser.add_argument(
        "--config-file", default="", help="YAML file of the method (default: config.yaml in the run's folder)"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="PATH", help="a plug-in of the training (default: none)"
    )
    parser.add_argument("--trainer", default="", help="name of the trainer (default: the one in config.yaml)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides (default: none)")
