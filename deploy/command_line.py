"""What `predict.py` and `export.py` have in common: which trained model, and for which classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dassl.command_line import number_from
from dassl.utils import MissingFileError, UnreadableFileError, UserError
from datasets.layout.classes import describe_same_text
from deploy.load import Source
from runner.plugins import announce, load_plugins


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that name a trained model."""
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="output folder of a training run")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line (default: those of the training)")
    parser.add_argument("--load-epoch", type=number_from(1), help="epoch to load (default: the best or last)")
    parser.add_argument("--backbone", default="", help="CLIP name or file, where it is not where it was in training")
    parser.add_argument("--config-file", default="", help="YAML file of the method, for a folder without config.yaml")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="PATH", help="the training's plug-in; may be repeated"
    )
    parser.add_argument("--trainer", default="", help="name of the trainer, for a folder without config.yaml")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides")


def source_of(args: argparse.Namespace) -> Source:
    """What the flags name; loads the plug-ins."""
    load_plugins(args.plugin)
    announce()
    options = [*args.opts, *(("MODEL.BACKBONE.NAME", args.backbone) if args.backbone else ())]
    return Source(args.checkpoint, args.load_epoch, args.config_file, args.trainer, options)


def read_class_names(path: str | None) -> list[str] | None:
    """The lines of a file, blank ones left out; None for no file.

    Raises:
        UserError: the file cannot be read, names nothing, or names a class twice.
    """
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise MissingFileError(f"no such file of class names: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"cannot read the class names in {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} holds no class name: one a line is wanted")
    repeated = _first_repeated(names)
    if repeated is not None:
        raise UserError(f"{path} names {repeated!r} twice")
    described = describe_same_text(names)
    if described:
        raise UserError(f"{path}: class names have {described}")
    return names


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
