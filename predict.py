"""Classify images with a trained model; no data set is needed.

python predict.py --checkpoint output/try --images photo.jpg folder/ --topk 3
python predict.py --checkpoint output/try --images folder/ --classes names.txt --json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from dassl.command_line import ArgumentParser, end_imports_in_one_line, errors_in_one_line

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()

from dassl.utils import Logger, UserError, print_above_bar, printable, printable_json
from dassl.utils.memory import keep_freed_memory
from deploy.classifier import Classifier, Prediction, load_classifier
from deploy.command_line import add_source_arguments, read_class_names, source_of
from deploy.images import find_images, left_out_below


def main(args: argparse.Namespace) -> None:
    """Print a line or more for each image as it is classified.

    Raises:
        UserError: something the user can fix; at the end, when an image could not be read.
    """
    images, classnames = find_images(args.images), read_class_names(args.classes)
    for line in left_out_below(args.images, images):
        print(f"note: {printable(line)}", file=sys.stderr)
    with redirect_stdout(Logger(console=sys.stderr)):  # stdout is for results
        source = source_of(args)
        classifier = load_classifier(
            source.folder, classnames, args.device, source.epoch, source.config_file, source.trainer, source.options
        )
    show = json_line if args.json else table(classifier, images)
    failed = 0
    for prediction in classifier.predict(images, args.topk, args.batch_size, args.workers):
        if prediction.error is not None:
            failed += 1
            print(f"error: {prediction.error}", file=sys.stderr)
        for line in show(prediction):
            print_above_bar(line)
    if failed:
        raise UserError(f"{failed:,} of {len(images):,} images could not be read, see above")


def json_line(prediction: Prediction) -> list[str]:
    """One JSON object: the image with its classes, or with the error."""
    content: dict[str, object] = {"image": prediction.image}
    if prediction.error is not None:
        content["error"] = prediction.error
    else:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        content["predictions"] = [{"class": name, "probability": round(value, 6)} for name, value in pairs]
    return [printable_json(content)]


def table(classifier: Classifier, images: Sequence[str]) -> Callable[[Prediction], list[str]]:
    """Prints the head of a table; returns what makes the rows of an image."""
    image_width = max(len("image"), *(len(printable(image)) for image in images))
    class_width = max(len("class"), *(len(printable(name)) for name in classifier.classnames))
    print(f"{'image':<{image_width}}  {'class':<{class_width}}  probability")

    def rows(prediction: Prediction) -> list[str]:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        lines = [f"{printable(name):<{class_width}}  {100 * value:9.2f} %" for name, value in pairs]
        image = printable(prediction.image)
        return [f"{'' if rank else image:<{image_width}}  {line}" for rank, line in enumerate(lines)]

    return rows


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description="Classify images with a trained model.")
    add_source_arguments(parser)
    parser.add_argument("--images", required=True, nargs="+", metavar="PATH", help="image files and folders")
    parser.add_argument("--topk", type=int, default=5, help="classes named for each image (default: 5)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a table")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one"
    )
    parser.add_argument("--batch-size", type=int, help="images at a time (default: the training's test batch)")
    parser.add_argument("--workers", type=int, help="processes that read images (default: by the number of images)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    keep_freed_memory()
    try:
        with errors_in_one_line():
            main(parse_args())
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(1)
