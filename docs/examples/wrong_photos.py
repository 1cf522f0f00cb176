"""What a classifier gets wrong on photos in class folders; see docs/quick_start.md.

python docs/examples/wrong_photos.py output/mine/result.json output/predictions.jsonl

The first file is the result of a run with `TEST.PER_CLASS_RESULT True`, the second is what `predict.py --json` printed.
Class names are the folders' names.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

result_file, predictions_file = sys.argv[1:]

result = json.loads(Path(result_file).read_text(encoding="utf-8"))
print("accuracy on the test photos, by class")
for name, accuracy in sorted(result["per_class"].items(), key=lambda item: item[1]):
    print(f"  {accuracy:5.1f} %  {name}")

wrong = []
for line in Path(predictions_file).read_text(encoding="utf-8").splitlines():
    photo = json.loads(line)
    if "error" in photo:
        continue
    best = photo["predictions"][0]
    folder = Path(photo["image"]).parent.name
    if best["class"] != folder:
        wrong.append((best["probability"], folder, best["class"], photo["image"]))

print("\nclasses taken for each other most often, all photos")
for (true, predicted), count in Counter((true, predicted) for _, true, predicted, _ in wrong).most_common(10):
    print(f"  {count:4d}  {true} taken for {predicted}")

print("\nphotos in the wrong class, the most certain first")
for probability, true, predicted, image in sorted(wrong, reverse=True):
    print(f"  {100 * probability:5.1f} %  {image}: {predicted}, not {true}")
