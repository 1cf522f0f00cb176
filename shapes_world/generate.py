"""Writes the generated data sets as image files in CoOp's layout.

    python -m shapes_world.generate --root DATA [Shapes Glyphs ShapesSketch ShapesNight ShapesCluttered]

    DATA/shapes/images/red_striped_heart/test_0007.png
    DATA/shapes/split_zhou_Shapes.json        {"train": [[path, label, class name], ...], "val": ..., "test": ...}

The same files, byte for byte, on every run. A data set appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dassl.command_line import ArgumentParser, errors_in_one_line
from shapes_world.suites import SPLITS, SUITES, Suite


def make_parser() -> ArgumentParser:
    """The parser of this program."""
    parser = ArgumentParser(
        prog="python -m shapes_world.generate",
        description="Write the generated data sets in CoOp's layout.",
        examples=("--root data shapes", "--root data"),
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SUITES)} (default: all)")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    make_parser().parse_args()

from dassl.utils import UserError
from dassl.utils.files import current_umask

IMAGES_FOLDER = "images"


def generate(root: Path | str, names: Sequence[str] | None = None) -> None:
    """Write the named data sets (all if None) below `root`; existing ones are kept.

    Args:
        names: registry names (Shapes) or names of config files (shapes).

    Raises:
        UserError: unknown name, unwritable folder, or a folder of that name with other content.
    """
    known = SUITES | {suite.folder: suite for suite in SUITES.values()}
    for name in SUITES if names is None else names:
        if name not in known:
            raise UserError(f"unknown generated data set {name!r}: choose from {', '.join(SUITES)}")
        _generate_one(Path(root), known[name])


def is_complete(root: Path | str, name: str) -> bool:
    """Whether the data set of that name exists below `root`; it appears there in one step, with its split file."""
    return (Path(root) / SUITES[name].folder / SUITES[name].split_file).is_file()


def _generate_one(root: Path, suite: Suite) -> None:
    target = root / suite.folder
    if is_complete(root, suite.name):
        print(f"{suite.name}: already in {target}")
        return
    if target.exists():
        raise UserError(
            f"{target} exists but has no {suite.split_file}: move it away, then generate {suite.name} again"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        prefix = f".{suite.folder}.part-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as part:
            count = _write(suite, Path(part))
            _publish(Path(part), target, suite)  # moves it
    except OSError as error:
        raise UserError(f"cannot write {suite.name} into {target}: {error.strerror or error}") from error
    print(f"{suite.name}: wrote {count} images of {len(suite.subjects)} classes to {target}")


def _write(suite: Suite, folder: Path) -> int:
    """Images first, split file last; returns the number of images."""
    splits: dict[str, list[list]] = {split: [] for split in SPLITS}
    jobs = [
        (split, label, number)
        for split in SPLITS
        for label in range(len(suite.subjects))
        for number in range(suite.count(split))
    ]
    for split, label, number in tqdm(jobs, f"generating {suite.name}", unit="image", disable=None):
        name = suite.class_names[label]
        relative = f"{name.replace(' ', '_')}/{split}_{number:04d}.png"
        path = folder / IMAGES_FOLDER / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        suite.draw(split, label, number).save(path, compress_level=1)
        splits[split].append([relative, label, name])
    (folder / suite.split_file).write_text(json.dumps(splits, indent=1) + "\n")
    return len(jobs)


def _publish(part: Path, target: Path, suite: Suite) -> None:
    part.chmod(0o777 & ~current_umask())  # mkdtemp creates folders that only their owner can enter
    try:
        os.rename(part, target)
    except OSError:
        if not (target / suite.split_file).is_file():  # else another process was faster and wrote the same bytes
            raise


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    generate(options.root, options.names or None)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
