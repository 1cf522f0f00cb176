"""What a classifier gets wrong on its test photos; see docs/quick_start.md.

python docs/examples/wrong_photos.py output/mine
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser(description="What a classifier gets wrong on its test photos.")
parser.add_argument("run", type=Path, help="output folder of a training or of an evaluation")
file = parser.parse_args().run / "predictions.npz"
if not file.is_file():
    sys.exit(f"error: there is no {file}: a training or an evaluation writes it, unless TEST.SAVE_PREDICTIONS is False")

predictions = np.load(file)  # docs/using.md says what is in it
names, true, best = predictions["classnames"], predictions["labels"], predictions["top5"][:, 0]

print("accuracy on the test photos, by class")
of_class = {name: 100 * np.mean(best[true == label] == label) for label, name in enumerate(names) if label in true}
for name, accuracy in sorted(of_class.items(), key=lambda item: item[1]):
    print(f"  {accuracy:5.1f} %  {name}")

print("\nclasses taken for each other most often")
(wrong,) = np.nonzero(best != true)
for (label, predicted), count in Counter(zip(true[wrong], best[wrong], strict=True)).most_common(10):
    print(f"  {count:4d}  {names[label]} taken for {names[predicted]}")

print("\nphotos in the wrong class, the most certain first")
probability = predictions["scores"][:, 0]
for photo in sorted(wrong, key=lambda photo: -probability[photo]):
    where, predicted, label = predictions["images"][photo], names[best[photo]], names[true[photo]]
    print(f"  {100 * probability[photo]:5.1f} %  {where}: {predicted}, not {label}")
