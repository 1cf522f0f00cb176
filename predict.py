"""Classify images with a trained model; no data set is needed.

python predict.py --model-dir output/try --images photo.jpg folder/ --topk 3
python predict.py --model-dir output/try --images folder/ --classes "cat, dog" --csv
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from dassl.command_line import end_imports_in_one_line, errors_in_one_line, tell_of_imports
from deploy.arguments import parse_predict_args as parse_args

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    parse_args()
    tell_of_imports()

from dassl.utils import Logger, UserError, in_csv, print_above_bar, printable, printable_json
from dassl.utils.memory import keep_freed_memory
from deploy.classifier import Classifier, Prediction
from deploy.command_line import classifier_of, read_class_names
from deploy.images import find_images, left_out_below

Rows = Callable[[Prediction], list[str]]
"""Makes the printed lines of an image."""


def main(args: argparse.Namespace) -> None:
    """Print one or more lines for each image as it is classified; errors follow at the end.

    Raises:
        UserError: an error that the user can fix; at the end, if an image could not be read.
    """
    images, classnames = find_images(args.images), read_class_names(args.classes)
    for line in left_out_below(args.images, images):
        print(f"note: {printable(line)}", file=sys.stderr)
    with redirect_stdout(Logger(console=sys.stderr)):  # stdout is for results
        classifier = classifier_of(args, classnames)
    show = json_line if args.json else csv_lines() if args.csv else prediction_table(classifier, images)
    errors: list[str] = []
    try:
        for prediction in classifier.predict(images, args.topk, args.batch_size, args.workers):
            if prediction.error is not None:
                errors.append(prediction.error)
            for line in show(prediction):
                print_above_bar(line)
    finally:  # also when it is interrupted
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
    if errors:
        raise UserError(f"{len(errors):,} of {len(images):,} images could not be read, see above")


def json_line(prediction: Prediction) -> list[str]:
    """One JSON object: the image with its classes, or with the error."""
    content: dict[str, object] = {"image": prediction.image}
    if prediction.error is not None:
        content["error"] = prediction.error
    else:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        content["predictions"] = [{"class": name, "probability": round(value, 6)} for name, value in pairs]
    return [printable_json(content)]


def csv_lines() -> Rows:
    """Print the head of comma-separated values; return the function for the lines of an image, one per class."""
    print("image,rank,class,probability,error")

    def lines(prediction: Prediction) -> list[str]:
        if prediction.error is not None:
            return [_csv_line(prediction.image, "", "", "", prediction.error)]
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        return [
            _csv_line(prediction.image, rank, name, f"{value:.6f}", "") for rank, (name, value) in enumerate(pairs, 1)
        ]

    return lines


def _csv_line(*cells: object) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([in_csv(str(cell)) for cell in cells])
    return line.getvalue()


def prediction_table(classifier: Classifier, images: Sequence[str]) -> Rows:
    """Print the head of a table; return the function for the rows of an image, none for one with an error."""
    image_width = max(len("image"), *(len(printable(image)) for image in images))
    class_width = max(len("class"), *(len(printable(name)) for name in classifier.classnames))
    print(f"{'image':<{image_width}}  {'class':<{class_width}}  probability")

    def rows(prediction: Prediction) -> list[str]:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        lines = [f"{printable(name):<{class_width}}  {100 * value:9.2f} %" for name, value in pairs]
        image = printable(prediction.image)
        return [f"{'' if rank else image:<{image_width}}  {line}" for rank, line in enumerate(lines)]

    return rows


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
