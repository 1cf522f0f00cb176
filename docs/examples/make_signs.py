"""Lays out some generated images as docs/examples/signs.py reads them.

python docs/examples/make_signs.py data
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

CLASSES, IMAGES = 8, {"train": 4, "val": 1, "test": 5}

parser = argparse.ArgumentParser(description="Lays out some generated images as docs/examples/signs.py reads them.")
parser.add_argument("root", type=Path, help="folder of the data sets, with Shapes in it")
root = parser.parse_args().root
split = json.loads((root / "shapes" / "split_zhou_Shapes.json").read_text(encoding="utf-8"))
names, lines = {}, []
(root / "signs" / "images").mkdir(parents=True, exist_ok=True)
for part, count in IMAGES.items():
    taken = dict.fromkeys(range(CLASSES), 0)
    for path, label, name in split[part]:
        if label < CLASSES and taken[label] < count:
            taken[label] += 1
            names[label] = name
            sign = f"{len(lines):04d}.png"
            shutil.copy(root / "shapes" / "images" / path, root / "signs" / "images" / sign)
            lines.append(f"{sign} {label} {part}\n")
(root / "signs" / "labels.txt").write_text("".join(lines), encoding="utf-8")
(root / "signs" / "classes.txt").write_text("".join(f"{names[label]}\n" for label in sorted(names)), encoding="utf-8")
