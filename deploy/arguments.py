"""The command lines of `predict.py`, `export.py`, `deploy.hub` and `deploy.web`.

Imports nothing slow, so that mistakes are reported at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, number_from

GRAPH_FORMATS = ("pt2", "onnx")
"""File name endings of the exported image tower."""
_HUB_DESCRIPTION = """Prompts to and from the Hugging Face Hub, in a folder of kilobytes with a model card.

The package huggingface_hub does the transfer. `hf auth login` or the variable HF_TOKEN gives it your token."""
_PUSH_DESCRIPTION = """Puts the learned tensors of a run or an exported folder on the Hub.

Settings, class names and a card come with them. The card names method, settings, data set, draw, accuracies and
command. All are as public as the repository; folders of this computer are left out of them."""
_PULL_DESCRIPTION = """Takes learned prompts from the Hub. `predict.py --model-dir` loads them like an exported folder.

Only the expected files are taken, within bounds, and each is compared with its recorded size and SHA-256."""


def make_predict_parser() -> ArgumentParser:
    """The parser of `predict.py`."""
    parser = ArgumentParser(
        prog="predict.py",
        description="Classify images with a trained model; no data set is needed.",
        examples=(
            "--model-dir output/try --images photo.jpg folder/ --topk 3",
            '--model-dir output/try --images folder/ --classes "cat, dog" --csv > found.csv',
            "--model-dir output/try --images folder/ --classes names.txt --json",
        ),
    )
    _add_source_arguments(parser)
    parser.add_argument("--images", required=True, nargs="+", metavar="PATH", help="image files and folders")
    parser.add_argument("--topk", type=int, default=5, help="classes named for each image")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image instead of a table")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    _add_device_argument(parser)
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


def make_hub_parser() -> ArgumentParser:
    """The parser of `python -m deploy.hub`."""
    parser = ArgumentParser(
        prog="python -m deploy.hub",
        description=_HUB_DESCRIPTION,
        examples=("push output/try owner/name --private", "pull owner/name --output-dir pulled"),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_push(commands)
    _add_pull(commands)
    return parser


def _add_push(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "push",
        help="put learned prompts on the Hub",
        description=_PUSH_DESCRIPTION,
        examples=("output/try owner/name --private", "output/try owner/name --evaluations output/try_new"),
    )
    add = parser.add_argument
    add("source", metavar="RUN_OR_EXPORT", help="output folder of a training run, or an exported folder")
    _add_repository_argument(parser)
    add("--private", action="store_true", help="a private repository (default: the Hub's, which is usually public)")
    add(
        "--evaluations",
        nargs="+",
        default=[],
        metavar="DIR",
        help="output folders of evaluations of this model, for the card (default: none, the run's own test alone)",
    )
    add("--backbone", default="", help="CLIP name or file (default: the one of the training)")
    _add_plugin_argument(parser)


def _add_pull(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pull",
        help="take learned prompts from the Hub",
        description=_PULL_DESCRIPTION,
        examples=("owner/name --output-dir pulled", "owner/name --output-dir pulled --revision v1.0"),
    )
    _add_repository_argument(parser)
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")


def _add_repository_argument(parser: ArgumentParser) -> None:
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub")


def make_web_parser() -> ArgumentParser:
    """The parser of `python -m deploy.web`."""
    parser = ArgumentParser(
        prog="python -m deploy.web",
        description="A page in the browser to try a trained classifier on pictures; needs the package gradio.",
        examples=("--model-dir output/try", '--model-dir output/try --classes "cat, dog, tea kettle" --port 8000'),
    )
    _add_source_arguments(parser)
    _add_device_argument(parser)
    parser.add_argument("--topk", type=number_from(1), default=5, help="classes named for each picture")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens the page to the network, unprotected"
    )
    parser.add_argument("--port", type=number_from(1), default=7860, help="port to listen on")
    return parser


def _add_device_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: auto, a GPU if there is one)"
    )


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
    _add_plugin_argument(parser)
    parser.add_argument("--trainer", default="", help="name of the trainer (default: the one in config.yaml)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides (default: none)")


def _add_plugin_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="PATH", help="a plug-in of the training (default: none)"
    )
