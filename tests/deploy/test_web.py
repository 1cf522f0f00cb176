"""The page in the browser: the function behind it always, the page itself where gradio is installed.

Expected values: the classifier asked directly.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import run_forked
from PIL import Image
from trained_runs import Runs

from dassl.utils import UserError
from deploy import load_classifier, web
from deploy.arguments import make_web_parser
from deploy.classifier import Prediction

ROOT = Path(web.__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def classifier(runs):
    return load_classifier(runs("CoOp").output_dir, device="cpu")


@pytest.fixture
def picture(runs):
    return str(next(runs.images.rglob("*.jpg")))


def test_an_answer_is_the_prediction(classifier, picture):
    found = web.answer(classifier, picture, topk=3)
    (expected,) = classifier.predict([picture], topk=3)
    assert found.probabilities == dict(zip(expected.classes, expected.probabilities, strict=True))
    assert list(found.probabilities) == list(expected.classes) and len(found.probabilities) == 3
    assert found.error == "" and found.preview is not None and max(found.preview.size) <= web.PREVIEW_SIDE


def test_classes_that_share_a_name_are_all_shown(classifier, picture, monkeypatch):
    prediction = Prediction(picture, ("crane", "cat", "crane", "crane (2)"), (0.4, 0.3, 0.2, 0.1))
    monkeypatch.setattr(type(classifier), "predict", lambda *arguments, **options: iter([prediction]))
    shown = web.answer(classifier, picture).probabilities
    assert shown == {"crane": 0.4, "cat": 0.3, "crane (2)": 0.2, "crane (2) (2)": 0.1}


def test_no_picture_is_no_error(classifier):
    assert web.answer(classifier, None) == ({}, None, "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a", "cannot read the image odd.png|odd.png is not an image"),
        (b"", "odd.png is not an image that Pillow can read"),
        (None, "odd.png has 300 x 1 pixels, more than INPUT.MAX_ASPECT_RATIO"),
    ],
)
def test_what_is_not_a_picture_is_one_line(classifier, tmp_path, content, says):
    """Without the folder where the server keeps it."""
    path = tmp_path / "odd.png"
    if content is None:
        Image.new("RGB", (300, 1)).save(path)
    else:
        path.write_bytes(content)
    found = web.answer(classifier, str(path))
    assert found.probabilities == {} and found.preview is None
    assert re.search(says, found.error) and str(tmp_path) not in found.error and "\n" not in found.error


def test_the_bounds_are_those_of_predictions(runs, tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (30, 20)).save(path)
    for bound, fits in ((600, True), (599, False)):
        bounded = load_classifier(runs("CoOp").output_dir, options=("INPUT.MAX_PIXELS", str(bound)))
        found = web.answer(bounded, str(path))
        assert (found.error == "") == fits and (fits or "raise INPUT.MAX_PIXELS" in found.error)


def test_the_package_is_asked_for_before_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(web, "PACKAGE", "no_such_package")
    monkeypatch.setattr(web, "classifier_of", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match="pip install no_such_package"):
        web.main(make_web_parser().parse_args(["--model-dir", str(tmp_path)]))


def test_the_page_is_local_by_default():
    args = make_web_parser().parse_args(["--model-dir", "x"])
    assert (args.host, args.port) == ("127.0.0.1", 7860)


def test_a_port_that_does_not_exist():
    result = run_forked(["prometar.py", "web", "--model-dir", "x", "--port", "70000"])
    assert result.returncode == 1 and result.stderr == "error: --port should be at most 65535, not 70000\n"


def test_the_page_answers(classifier, picture, tmp_path, monkeypatch):
    """Through Gradio's own server and client, on this machine."""
    gradio = pytest.importorskip("gradio", reason="gradio is not installed")
    gradio_client = pytest.importorskip("gradio_client")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "kept"))
    page = web.make_page(gradio, classifier, "CoOp", topk=2)
    _, url, _ = page.launch(
        server_name="127.0.0.1", server_port=None, share=False, prevent_thread_lock=True, quiet=True
    )
    try:
        client = gradio_client.Client(url, verbose=False, analytics_enabled=False)
        label, _, error = client.predict(gradio_client.handle_file(picture), api_name="/classify")
        (expected,) = classifier.predict([picture], topk=2)
        assert [each["label"] for each in label["confidences"]] == list(expected.classes)
        assert [each["confidence"] for each in label["confidences"]] == pytest.approx(expected.probabilities)
        odd = tmp_path / "odd.png"
        odd.write_bytes(b"no picture")
        label, _, error = client.predict(gradio_client.handle_file(str(odd)), api_name="/classify")
        assert "odd.png is not an image" in str(error) and not label
    finally:
        page.close()
