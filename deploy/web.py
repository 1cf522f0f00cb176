"""A page in the browser on which a trained classifier is tried on one's own pictures.

python -m deploy.web --model-dir output/try
"""

from __future__ import annotations

from dassl.command_line import end_imports_in_one_line, errors_in_one_line, tell_of_imports
from deploy.arguments import make_web_parser

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    make_web_parser().parse_args()
    tell_of_imports()

import argparse
import importlib
import importlib.util
import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL.Image import Image

from dassl.utils import BadValueError, UserError, printable, read_image
from dassl.utils.memory import keep_freed_memory
from deploy.classifier import Classifier
from deploy.command_line import classifier_of, read_class_names

PACKAGE = "gradio"
MAX_UPLOAD = "64mb"
PREVIEW_SIDE = 512
"""Longest side of the shown picture, in pixels."""
MAX_PORT = 65535


class Answer(NamedTuple):
    """What the page shows for a picture."""

    probabilities: dict[str, float]
    """Of the most probable classes, in descending order; empty with an error."""
    preview: Image | None
    """The picture, made small."""
    error: str
    """One line; empty without an error."""


def answer(classifier: Classifier, picture: str | None, topk: int = 5) -> Answer:
    """Classify a picture as `predict.py` does, within the same bounds.

    Args:
        picture: path of the file; None: none was chosen.
    """
    if picture is None:
        return Answer({}, None, "")
    given = classifier.cfg.INPUT
    try:
        (prediction,) = classifier.predict([picture], topk, workers=0)
        if prediction.error is not None:
            return Answer({}, None, _without_folder(prediction.error, picture))
        preview = read_image(picture, given.MAX_PIXELS, given.MAX_ASPECT_RATIO)
    except UserError as error:
        return Answer({}, None, _without_folder(str(error), picture))
    preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    names = _distinct([printable(name) for name in prediction.classes])
    return Answer(dict(zip(names, prediction.probabilities, strict=True)), preview, "")


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each repetition: two classes may share a name."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found.append(name if name not in found else next(each for each in numbered if each not in found))
    return found


def _without_folder(message: str, picture: str) -> str:
    """An error about a picture by its file's name: its folder is the server's, and means nothing to the user."""
    return message.replace(picture, picture.replace("\\", "/").rpartition("/")[2])


def make_page(gradio: Any, classifier: Classifier, title: str, topk: int) -> Any:
    """The page: a picture in, classes with probabilities out.

    It sends nothing to others, and deletes pictures when it ends. A picture is uploaded as a file: Gradio's own image
    component would decode it without bounds.
    """
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        picture = gradio.File(label="Picture", type="filepath")
        error = gradio.Textbox(label="Error", interactive=False, visible=False)
        with gradio.Row():
            preview = gradio.Image(label="Preview", interactive=False)
            label = gradio.Label(label=title)

        def show(path: str | None) -> tuple[Any, ...]:
            found = answer(classifier, path, topk)
            told = gradio.update(value=found.error, visible=bool(found.error))
            return found.probabilities or None, found.preview, told

        picture.change(show, picture, [label, preview, error], concurrency_limit=1, api_name="classify")
    return page


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    if args.port > MAX_PORT:
        raise BadValueError(f"--port should be at most {MAX_PORT}, not {args.port}")
    if importlib.util.find_spec(PACKAGE) is None:
        raise BadValueError(f"the page needs a package that is not installed: pip install {PACKAGE}")
    gradio, classnames = importlib.import_module(PACKAGE), read_class_names(args.classes)
    classifier = classifier_of(args, classnames)
    title = f"{classifier.cfg.TRAINER.NAME}, {len(classifier.classnames)} classes"
    page = make_page(gradio, classifier, title, args.topk)
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            max_file_size=MAX_UPLOAD,
            prevent_thread_lock=True,
            quiet=True,
        )
    except (OSError, ValueError) as error:
        raise BadValueError(
            f"cannot listen on {args.host}, port {args.port}: the port is in use, or the address is not "
            "this computer's: choose another --port or --host"
        ) from error
    print(f"Open http://{args.host}:{args.port} in a browser. Ctrl-C ends the page.", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close()


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(make_web_parser().parse_args())
