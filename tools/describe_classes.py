"""Descriptions of a data set's classes from CLIP's hand-written templates, for `TRAINER.COPROMPT.DESCRIPTIONS`.

    python -m tools.describe_classes FILE --root DATA --dataset-config-file configs/datasets/dtd.yaml

The file has the published form, {class name: [sentences]}, as many sentences for every class, all classes of the data
set in it. It is not a published file: those hold sentences that a language model wrote about each class.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dassl.command_line import ArgumentParser, errors_in_one_line


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file.

    Raises:
        UserError: the data cannot be used, or the file cannot be written.
    """
    parser = ArgumentParser(
        prog="python -m tools.describe_classes",
        description="Descriptions of a data set's classes from CLIP's templates, for TRAINER.COPROMPT.DESCRIPTIONS.",
        examples=("dtd.json --root data --dataset-config-file configs/datasets/dtd.yaml",),
    )
    parser.add_argument("file", help="JSON file to write")
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--dataset-config-file", required=True, help="YAML file of the data set")
    parser.add_argument("--templates", choices=("all", "selected"), default="all", help="CLIP's list of 80, or of 7")
    args = parser.parse_args(argv)
    from dassl.config import merge_file
    from dassl.data.datasets import build_dataset
    from dassl.utils import write_json
    from runner.config import default_cfg
    from trainers.core.imagenet_templates import IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT

    cfg = default_cfg()
    merge_file(cfg, args.dataset_config_file)
    cfg.DATASET.ROOT = args.root
    classnames = build_dataset(cfg).classnames
    templates = IMAGENET_TEMPLATES if args.templates == "all" else IMAGENET_TEMPLATES_SELECT
    write_json(describe(classnames, templates), args.file)
    print(
        f"{args.file}: {len(templates)} sentences from CLIP's templates for each of {len(classnames)} classes. This is "
        "not the published file, whose sentences a language model wrote"
    )


def describe(classnames: Sequence[str], templates: Sequence[str]) -> dict[str, list[str]]:
    """Each class's sentences, one a template."""
    from trainers.core.templates import readable

    return {readable(name): [template.format(readable(name)) for template in templates] for name in classnames}


if __name__ == "__main__":
    with errors_in_one_line():
        main()
