"""Small data sets in the true folder layouts, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

import datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade % 256, 80, 160)).save(path)


@pytest.fixture
def put_image():
    return write_image


@pytest.fixture
def put_lines():
    def write(path: Path, lines, end: str = "\n") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + end for line in lines).encode())

    return write


@pytest.fixture
def build():
    """Build a data set as a run would: generators seeded with SEED, then the registered reader."""

    def build_one(name: str, root: Path | str = "", shots: int = -1, seed: int = 1, subset: str = "all", **keys):
        cfg = get_cfg_default()
        datasets.add_config(cfg)
        cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.SEED = name, str(root), seed
        cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = shots, subset
        cfg.OUTPUT_DIR = str(keys.pop("OUTPUT_DIR", Path(root or "/nowhere") / "output"))
        for key, value in keys.items():
            cfg.DATASET[key] = str(value)
        cfg.freeze()
        random.seed(seed)
        return build_dataset(cfg)

    return build_one


@pytest.fixture
def rows():
    """(path below ``folder``, label, class name) of each item."""

    def rows_of(items, folder: Path):
        return [(Path(item.impath).relative_to(folder).as_posix(), item.label, item.classname) for item in items]

    return rows_of


# images a class of the data set below: 4 train, 3 val, 2 test
SIZES = {"train": 4, "val": 3, "test": 2}
CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture
def eurosat(tmp_path):
    """A data set with a split file: classes in the order dog, ant, elk, bee, cat. Returns the root."""
    folder = tmp_path / "eurosat"
    split = {}
    for part, size in SIZES.items():
        split[part] = []
        for label in (3, 0, 4, 1, 2):
            for number in range(size):
                rel = f"{CLASSES[label]}/{part}_{number}.jpg"
                write_image(folder / "2750" / rel, number)
                split[part].append([rel, label, CLASSES[label]])
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    return tmp_path
