"""What the flags of `predict.py` and `export.py` mean: which trained model, and for which classes."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dassl.utils import MissingFileError, UnreadableFileError, UserError
from datasets.layout.classes import describe_same_text
from deploy.classifier import Classifier, load_classifier
from deploy.load import TrainedFolder
from runner.plugins import announce, load_plugins


def source_of(args: argparse.Namespace) -> TrainedFolder:
    """The trained model that the flags name; loads the plug-ins that it needs."""
    load_plugins(args.plugin)
    announce()
    options = [*args.opts, *(("MODEL.BACKBONE.NAME", args.backbone) if args.backbone else ())]
    return TrainedFolder(args.model_dir, args.load_epoch, args.config_file, args.trainer, options)


def classifier_of(args: argparse.Namespace, classnames: Sequence[str] | None) -> Classifier:
    """The trained model that the flags name, as a classifier for these classes.

    Raises:
        UserError: there is no such model, or it does not fit.
    """
    source = source_of(args)
    options = source.epoch, source.config_file, source.trainer, source.options
    return load_classifier(source.folder, classnames, args.device, *options)


def read_class_names(given: str | None) -> list[str] | None:
    """Class names from a file or from a list with commas; None if nothing is given.

    Args:
        given: a file with one name per line, where blank lines do not count; or names such as "cat, dog".

    Raises:
        UserError: the file cannot be read, there is no name, or a name is empty or given twice.
    """
    if given is None:
        return None
    # what exists, has a folder in its name or ends in .txt is a file
    if "," in given and not (os.path.lexists(given) or os.sep in given or given.lower().endswith(".txt")):
        where, names = "--classes", [name.strip() for name in given.split(",")]
        if not all(names):
            raise UserError(f"--classes {given!r} has an empty name: put one comma between two names")
    else:
        where, names = given, _lines_of(given)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{where} names {repeated[0]!r} twice")
    described = describe_same_text(names)
    if described:
        raise UserError(f"{where}: class names have {described}")
    return names


def _lines_of(path: str) -> list[str]:
    """The lines of a file without the blank ones."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise MissingFileError(
            f'no such file of class names: {path} (or give names with commas: "cat, dog")'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"cannot read the class names in {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} has no class name: expected one per line")
    return names
