"""predict.py: a run folder is enough, and its predictions are those of the run's own test.

Expected values: the trainer that wrote the folder, asked directly (its test loader, its `model_inference`, its `test`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import runpy
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import CLASSNAMES, NODES
from trained_runs import Runs
from yacs.config import CfgNode

import export
import predict
import train
from dassl.config import get_cfg_default
from dassl.utils import UserError, printable_lines
from deploy import images as image_stream
from deploy import load_classifier
from deploy import standalone_script as classify
from deploy.classifier import Prediction
from trainers.core.record import read_record, write_record

ROOT = Path(train.__file__).parent
TRAINERS = ["ZeroshotCLIP", "ZeroshotCLIP2", *NODES]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def lose_data(monkeypatch):
    """From its call on, whoever looks for the data set fails."""
    return lambda: monkeypatch.setattr("dassl.data.data_manager.build_dataset", lambda cfg: pytest.fail("data read"))


@torch.no_grad()
def own_results(trainer):
    """Paths, labels and the trainer's own logits of its test images."""
    trainer.set_model_mode("eval")
    batches = list(trainer.test_loader)
    paths = [path for batch in batches for path in batch["impath"]]
    logits = torch.cat([trainer.model_inference(batch["img"]) for batch in batches])
    return paths, torch.cat([batch["label"] for batch in batches]), logits


@pytest.mark.parametrize("name", TRAINERS)
def test_predictions_are_those_of_the_test(runs, name, lose_data):
    trainer = runs(name)
    paths, labels, logits = own_results(trainer)
    lose_data()
    expected = logits.float().softmax(dim=-1)
    found = list(load_classifier(trainer.output_dir).predict(paths, topk=7))
    assert [prediction.image for prediction in found] == paths
    for prediction, row in zip(found, expected, strict=True):
        by_name = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert [by_name[name] for name in CLASSNAMES] == pytest.approx(row.tolist(), abs=1e-6)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    right = [CLASSNAMES[label] == prediction.classes[0] for prediction, label in zip(found, labels, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(trainer.test())


def test_logits_that_are_not_finite_are_no_prediction(runs, monkeypatch):
    """The image concerned is named; a sound one before it is still predicted."""
    paths, _, _ = own_results(runs("CoOp"))
    classifier = load_classifier(runs("CoOp").output_dir)
    answers = iter([torch.tensor([[1.0, 0.0]]), torch.tensor([[float("nan"), 0.0]])])
    monkeypatch.setattr(classifier, "logits", lambda images: next(answers))
    found = classifier.predict(paths[:2], topk=1, batch_size=1, workers=0)
    assert next(found).probabilities == pytest.approx((torch.tensor(1.0).sigmoid().item(),))
    with pytest.raises(UserError, match=f"1 of 1 images .*{re.escape(paths[1])}"):
        next(found)


def test_other_class_names(runs):
    """In another order the classes keep their logits; of fewer classes each keeps its own."""
    trainer = runs("IVLP")
    images = torch.stack([trainer.test_loader.dataset[i]["img"] for i in range(3)])
    own = load_classifier(trainer.output_dir).logits(images)
    backward = load_classifier(trainer.output_dir, CLASSNAMES[::-1]).logits(images)
    torch.testing.assert_close(backward, own.flip(1), atol=1e-5, rtol=0)
    two = load_classifier(trainer.output_dir, CLASSNAMES[2:4]).logits(images)
    torch.testing.assert_close(two, own[:, 2:4], atol=1e-5, rtol=0)


def test_class_specific_prompts_take_no_other_names(runs):
    trainer = runs("CoOp", CSC=True, N_CTX=2)
    with pytest.raises(UserError, match="class-specific"):
        load_classifier(trainer.output_dir, CLASSNAMES[::-1])
    assert load_classifier(trainer.output_dir, CLASSNAMES).classnames == CLASSNAMES


def test_an_epoch_can_be_chosen(runs):
    with pytest.raises(UserError, match="model.pth.tar-7"):
        load_classifier(runs("CoOp").output_dir, epoch=7)
    load_classifier(runs("CoOp").output_dir, epoch=1)


def test_images_are_read_as_they_are_needed(runs, monkeypatch):
    """Of 10,000 images three batches of eight are read for the first twenty predictions."""
    read = []
    original = image_stream.read_image
    monkeypatch.setattr(image_stream, "read_image", lambda path, *bounds: read.append(path) or original(path, *bounds))
    image = next(runs.images.rglob("*.jpg"))
    predictions = load_classifier(runs("CoOp").output_dir).predict([image] * 10_000, batch_size=8, workers=0)
    for _ in range(20):
        next(predictions)
    assert len(read) == 24


@pytest.mark.parametrize(
    ("key", "bound", "size"), [("INPUT.MAX_PIXELS", 600, (30, 20)), ("INPUT.MAX_ASPECT_RATIO", 201, (201, 1))]
)
def test_the_bounds_of_images_are_keys(runs, tmp_path, key, bound, size):
    image = tmp_path / "odd.png"
    Image.new("RGB", size).save(image)
    for value, fits in ((bound, True), (bound - 1, False)):
        classifier = load_classifier(runs("CoOp").output_dir, options=(key, str(value)))
        (prediction,) = classifier.predict([image], workers=0)
        assert (prediction.error is None) == fits, prediction
        assert fits or f"raise {key}" in prediction.error


def test_reading_processes_change_nothing(runs):
    classifier = load_classifier(runs("CoOp").output_dir)
    here, there = (list(classifier.predict([runs.images], batch_size=4, workers=n)) for n in (0, 2))
    assert here == there and len(here) == 49


def test_a_folder_without_record_needs_what_it_lacks(runs, tmp_path):
    """As a folder of the published code."""
    trainer = runs("CoOp")
    (tmp_path / "prompt_learner").symlink_to(Path(trainer.output_dir) / "prompt_learner")
    with pytest.raises(UserError, match="config.yaml"):
        load_classifier(tmp_path)
    config = tmp_path / "method.yaml"
    config.write_text((Path(trainer.output_dir) / "config.yaml").read_text())
    with pytest.raises(UserError, match="add --classes FILE"):
        load_classifier(tmp_path, config_file=str(config), trainer="CoOp")
    images = trainer.test_loader.dataset[0]["img"][None]
    found = load_classifier(tmp_path, CLASSNAMES, config_file=str(config), trainer="CoOp").logits(images)
    assert torch.equal(found, load_classifier(trainer.output_dir).logits(images))


@pytest.mark.parametrize("value", ["1", "None", "(2, 3)", "[]", "'quoted'", "ünïcode: # yes", "", "a\nb", "0x10"])
def test_the_record_keeps_strings_as_they_are(value, tmp_path):
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    cfg.TRAINER.COOP.CTX_INIT = cfg.OUTPUT_DIR = value
    write_record(tmp_path, cfg, ["ä", "1"])
    defaults = get_cfg_default()
    train.extend_cfg(defaults)
    again, classnames = read_record(tmp_path, defaults)
    assert again == cfg and classnames == ["ä", "1"]


def test_a_record_outlives_a_method_that_is_no_longer_here(tmp_path):
    defaults = get_cfg_default()
    train.extend_cfg(defaults)
    cfg = defaults.clone()
    cfg.TRAINER.NAME, cfg.TRAINER.GONE = "CoOp", CfgNode({"WEIGHT": 8.0})
    write_record(tmp_path, cfg, ["a"])
    again, _ = read_record(tmp_path, defaults)
    assert "GONE" not in again.TRAINER and again.TRAINER.COOP == cfg.TRAINER.COOP
    cfg.TRAINER.NAME = "Gone"
    write_record(tmp_path, cfg, ["a"])
    with pytest.raises(UserError, match="there is no trainer Gone here: put its file into trainers/, or name its plug"):
        read_record(tmp_path, defaults)
    cfg.TRAINER.NAME = "CoOp"
    del cfg.TRAINER["COOP"]  # a damaged record: its own settings are missing
    write_record(tmp_path, cfg, ["a"])
    with pytest.raises(UserError, match="unknown config key TRAINER.GONE"):
        read_record(tmp_path, defaults)


def test_the_documented_lines_of_python(runs, capsys):
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "using.md").read_text(), flags=re.DOTALL)
    code = code.replace('"output/try"', repr(runs("CoOp").output_dir)).replace('"folder/"', repr(str(runs.images)))
    capsys.readouterr()
    exec(compile(code, "using.md", "exec"), {})
    assert sum(line.startswith(str(runs.images)) for line in capsys.readouterr().out.splitlines()) == 49


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(runs, capsys):
    """Runs predict.py in this process; returns the lines of stdout."""

    def run(*arguments, trainer="CoOp"):
        source = [] if "--checkpoint" in arguments else ["--checkpoint", str(runs(trainer).output_dir)]
        capsys.readouterr()  # what the training printed
        predict.main(predict.parse_args([*source, *map(str, arguments)]))
        return capsys.readouterr().out.splitlines()

    return run


def test_json_lines(run, runs):
    image = runs.images / "c1" / "test_0.jpg"
    lines = [json.loads(line) for line in run("--images", image, runs.images / "c2", "--json", "--topk", 2)]
    assert lines[0]["image"] == str(image) and len(lines) == 1 + 7
    expected = next(load_classifier(runs("CoOp").output_dir).predict([image]))
    assert (
        lines[0]["predictions"]
        == [
            {"class": name, "probability": pytest.approx(value, abs=2e-6)}  # of another batch, and rounded
            for name, value in list(zip(expected.classes, expected.probabilities, strict=True))[:2]
        ]
    )


def test_table(run, runs):
    image = runs.images / "c1" / "test_0.jpg"
    lines = run("--images", image, "--topk", 3)
    assert lines[0].split() == ["image", "class", "probability"] and len(lines) == 4
    best = next(load_classifier(runs("CoOp").output_dir).predict([image]))
    assert lines[1].startswith(f"{image}  {best.classes[0]}") and lines[1].endswith(" %")
    assert len({len(line) for line in lines[1:]}) == 1


def test_class_names_from_a_file(run, runs, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("face\n\n  wild_cat \n")
    line = run("--images", runs.images / "c1" / "test_0.jpg", "--json", "--classes", names)[0]
    assert {entry["class"] for entry in json.loads(line)["predictions"]} == {"face", "wild_cat"}


def test_class_names_on_the_command_line(run, runs, tmp_path, monkeypatch):
    image = runs.images / "c1" / "test_0.jpg"
    line = run("--images", image, "--json", "--classes", "face, tea kettle")[0]
    assert {entry["class"] for entry in json.loads(line)["predictions"]} == {"face", "tea kettle"}
    monkeypatch.chdir(tmp_path)
    Path("a,b").write_text("cat\ndog\n")  # a file of that name comes first
    line = run("--images", image, "--json", "--classes", "a,b")[0]
    assert {entry["class"] for entry in json.loads(line)["predictions"]} == {"cat", "dog"}


def test_comma_separated_values(run, runs, tmp_path):
    image = tmp_path / 'a, "b".jpg'
    shutil.copy(runs.images / "c1" / "test_0.jpg", image)
    lines = list(csv.DictReader(run("--images", image, "--csv", "--topk", 2)))
    best = next(load_classifier(runs("CoOp").output_dir).predict([image]))
    assert [(row["image"], row["rank"], row["class"], row["error"]) for row in lines] == [
        (str(image), str(rank), name, "") for rank, name in enumerate(best.classes[:2], 1)
    ]
    assert [float(row["probability"]) for row in lines] == pytest.approx(best.probabilities[:2], abs=2e-6)


def test_comma_separated_values_have_no_formulas(capsys):
    line = predict.csv_lines()(Prediction("=1+1.png", ('=HYPERLINK("http://x")', "-cat"), (0.75, 0.25)))
    rows = list(csv.reader(line))
    assert rows == [
        ["'=1+1.png", "1", '\'=HYPERLINK("http://x")', "0.750000", ""],
        ["'=1+1.png", "2", "'-cat", "0.250000", ""],
    ]


def test_errors_come_after_the_table(runs, tmp_path):
    """Stdout and stderr are the same terminal here."""
    for name in ("a.jpg", "c.jpg"):
        shutil.copy(runs.images / "c0" / "test_0.jpg", tmp_path / name)
    (tmp_path / "b.jpg").write_text("no image")
    screen = io.StringIO()
    with pytest.raises(UserError, match="1 of 3"), redirect_stdout(screen), redirect_stderr(screen):
        words = ["--model-dir", runs("CoOp").output_dir, "--images", tmp_path, "--topk", 1]
        predict.main(predict.parse_args(list(map(str, words))))
    lines = [line for line in screen.getvalue().splitlines() if ".jpg" in line]
    assert [line.startswith("error: ") for line in lines] == [False, False, True] and "b.jpg" in lines[2]


def test_json_and_csv_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        predict.parse_args(["--model-dir", "x", "--images", "y", "--json", "--csv"])
    assert "--json and --csv exclude each other" in capsys.readouterr().err


def test_what_is_not_classified_is_named(run, runs, tmp_path, capsys):
    shutil.copy(runs.images / "c0" / "test_0.jpg", tmp_path / "a.JFIF")
    (tmp_path / "b.heic").write_bytes(b"")
    (tmp_path / ".c.jpg").write_bytes(b"")
    predict.main(
        predict.parse_args(["--checkpoint", str(runs("CoOp").output_dir), "--images", str(tmp_path), "--json"])
    )
    result = capsys.readouterr()
    assert len(result.out.splitlines()) == 1 and "a.JFIF" in result.out
    assert f"note: left out in {tmp_path}: 1 *.heic files (first b.heic), 1 hidden files (first .c.jpg)" in result.err


def put_odd_files(folder):
    """A link to nothing, a FIFO, a device, two images that are too large, and a name that is not UTF-8."""
    (folder / "a_dangling.jpg").symlink_to(folder / "gone.jpg")
    os.mkfifo(folder / "b_fifo.jpg")
    (folder / "c_device.jpg").symlink_to("/dev/zero")
    Image.new("1", (1, 2_000_000)).save(folder / "d_long.png")
    Image.new("1", (13_300, 13_300)).save(folder / "e_large.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/f_\xff.jpg")).write_bytes(b"no image")
    return 6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("as_json", [False, True])
def test_odd_files_are_a_line_each_and_the_rest_goes_on(runs, tmp_path, capsys, workers, as_json):
    good = tmp_path / "good.jpg"
    good.write_bytes((runs.images / "c0" / "test_0.jpg").read_bytes())
    odd = put_odd_files(tmp_path)
    for images in ([tmp_path], sorted(map(str, tmp_path.iterdir()))):  # as a folder, and each by its name
        arguments = ["--checkpoint", runs("CoOp").output_dir, "--workers", workers, "--images", *images]
        capsys.readouterr()
        with pytest.raises(UserError, match=f"{odd} of {odd + 1} images could not be read"):
            predict.main(predict.parse_args([*map(str, arguments), *(["--json"] if as_json else [])]))
        result = capsys.readouterr()
        errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == odd and all(line.isprintable() for line in errors)
        assert sum("good.jpg" in line for line in result.out.splitlines()) == 1


def test_a_corrupt_image_is_named_and_nothing_is_lost(runs, tmp_path, monkeypatch, capsys):
    """As a program: the other images are classified, stdout stays JSON, the exit status is 1."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes((runs.images / "c0" / "test_0.jpg").read_bytes())
    (tmp_path / "1.jpg").write_text("no image")
    command = ["predict.py", "--checkpoint", runs("CoOp").output_dir, "--images", str(tmp_path), "--json"]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / "predict.py"), run_name="__main__")
    result = capsys.readouterr()
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert exit.value.code == "error: 1 of 3 images could not be read, see above"  # which Python prints, with status 1
    assert len(lines) == 3
    assert "error" in lines[1] and lines[0]["predictions"] == lines[2]["predictions"]
    (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "1.jpg") in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--images", "/nowhere/a.jpg"), "/nowhere/a.jpg"),
        (("--images", "EMPTY"), "no image below"),
        (("--images", "IMAGES", "--classes", "/nowhere/names.txt"), "/nowhere/names.txt"),
        (("--images", "IMAGES", "--classes", "EMPTY/blank.txt"), "no class name"),
        (("--images", "IMAGES", "--classes", "EMPTY/twice.txt"), "'cat' twice"),
        (("--images", "IMAGES", "--classes", "EMPTY/same_text.txt"), "'hot dog' and 'Hot_dog' (classes 0 and 2)"),
        (("--images", "IMAGES", "--classes", "EMPTY/binary.txt"), "binary.txt"),
        (("--images", "IMAGES", "--classes", "EMPTY/long.txt"), "too long"),
        (("--images", "IMAGES", "--classes", "cat, dog,cat"), "--classes names 'cat' twice"),
        (("--images", "IMAGES", "--classes", "cat,,dog"), "has an empty name"),
        (("--images", "IMAGES", "--classes", "cat"), 'give names with commas: "cat, dog"'),
        (("--images", "IMAGES", "--classes", "a,b.txt"), "no such file of class names: a,b.txt"),
        (("--images", "IMAGES", "--classes", "hot dog,Hot_dog"), "'hot dog' and 'Hot_dog'"),
        (("--images", "IMAGES", "--topk", "0"), "topk"),
        (("--images", "IMAGES", "--batch-size", "-1"), "batch size"),
        (("--images", "IMAGES", "--batch-size", "0"), "batch size"),
        (("--images", "IMAGES", "--workers", "-1"), "workers"),
        (("--images", "IMAGES", "--backbone", "/nowhere/clip.pt"), "/nowhere/clip.pt"),
        (
            ("--images", "IMAGES", "--checkpoint", "/nowhere/run"),
            "/nowhere/run (give the output folder of a training run); / has the folders",
        ),
        (("--images", "IMAGES", "--checkpoint", "EMPTY"), "add --config-file FILE, --trainer NAME, --classes FILE"),
        (("--images", "IMAGES", "--checkpoint", "EMPTY"), " has trained models in below/run; for a folder of the"),
        (("--images", "IMAGES", "--checkpoint", "EMPTY/below/run/a/model.pth.tar-1"), "below/run: give that folder"),
        (("--images", "IMAGES", "--trainer", "CoOpp"), "CoOp"),
        (("--images", "IMAGES", "--opts", "INPUT.SIZES", "1"), "INPUT.SIZES"),
    ],
)
def test_a_mistake_is_said_in_one_line(run, runs, arguments, says, tmp_path):
    for name, content in (
        ("blank", b"\n\n"),
        ("twice", b"cat\ncat"),
        ("same_text", b"hot dog\ntea\nHot_dog"),
        ("binary", b"\xff\xfe\xfa"),
        ("long", b"a " * 99),
    ):
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "below" / "run" / "a").mkdir(parents=True)
    for file in ("config.yaml", "a/model.pth.tar-1"):
        (tmp_path / "below" / "run" / file).touch()
    places = {"IMAGES": str(runs.images), "EMPTY": str(tmp_path)}
    for name, place in places.items():
        arguments = tuple(argument.replace(name, place) for argument in arguments)
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def received(runs, tmp_path, monkeypatch):
    """A run folder with a backbone file in it; the current folder is its parent."""
    folder = tmp_path / "received"
    shutil.copytree(runs("CoOp").output_dir, folder)
    shutil.copy(runs.backbone, folder / "clip.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    (folder / "linked.safetensors").symlink_to(runs.backbone)
    return folder


def name_in_record(folder, key, value):
    config = folder / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    *nodes, leaf = key.split(".")
    node = tree
    for name in nodes:
        node = node[name]
    node[leaf] = value
    config.write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    "backbone",
    [
        "FOLDER/clip.safetensors", "received/clip.safetensors", "./x/../received/clip.safetensors",
        "link/clip.safetensors", "FOLDER/linked.safetensors", "open_clip:ViT-B-32/FOLDER/clip.safetensors",
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", ["predict", "export"])
def test_a_backbone_that_came_with_the_folder_needs_the_users_word(received, runs, backbone, program):
    (received.parent / "x").mkdir()
    backbone = backbone.replace("FOLDER", str(received))
    name_in_record(received, "MODEL.BACKBONE.NAME", backbone)

    def use(*more):
        if program == "predict":
            image = str(runs.images / "c1" / "test_0.jpg")
            predict.main(predict.parse_args(["--checkpoint", str(received), "--images", image, *more]))
        else:
            arguments = ["--checkpoint", str(received), "--output", "exported", "--formats", *more]
            export.main(export.parse_args(arguments))

    with pytest.raises(UserError, match=r"names a backbone file in the same folder: .* add --backbone ") as error:
        use()
    assert "\n" not in str(error.value) and not os.path.exists("exported")
    if not backbone.startswith("open_clip:"):
        use("--backbone", backbone)


def test_other_paths_in_a_record_are_not_used(received, runs, tmp_path):
    name_in_record(received, "MODEL.INIT_WEIGHTS", str(received / "clip.safetensors"))
    for key in ("OUTPUT_DIR", "RESUME", "DATASET.ROOT"):
        name_in_record(received, key, str(tmp_path / "elsewhere"))
    image = runs.images / "c1" / "test_0.jpg"
    (found,) = load_classifier(received).predict([image])
    (expected,) = load_classifier(runs("CoOp").output_dir).predict([image])
    assert found.probabilities == expected.probabilities
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_cannot_steer_the_terminal(form, capsys):
    """Names of classes and files with cursor, direction and encoding tricks; JSON keeps them as they are."""

    class Named:
        classnames = ("cat\x1b[2J\nerror", "\u202edog")

    image = "photos/\udcff\x9b.jpg"
    prediction = Prediction(image, Named.classnames, (0.75, 0.25))
    show = {
        "json": lambda: predict.json_line,
        "csv": predict.csv_lines,
        "table": lambda: predict.prediction_table(Named, [image]),
    }
    lines = show[form]()(prediction)
    printed = capsys.readouterr().out + "\n".join(lines)
    assert printable_lines(printed) == printed and printed.encode()
    if form == "csv":
        assert [row[2] for row in csv.reader(printed.splitlines())][1:] == [r"cat\x1b[2J\nerror", r"\u202edog"]
    elif form == "json":
        content = json.loads(printed)
        assert content["image"] == image and [row["class"] for row in content["predictions"]] == [*Named.classnames]
    else:
        head, first, second = printed.splitlines()
        assert first.startswith(r"photos/\udcff\x9b.jpg") and first.index("75.00") == second.index("25.00")
        assert head.index("class") == first.index(r"cat\x1b[2J\nerror") == second.index(r"\u202edog")


def test_the_exported_script_shows_hidden_characters():
    assert classify.printable("cat\x1b[2J\t\u202e\udcff 猫") == r"cat\x1b[2J\t\u202e\udcff 猫"


@pytest.mark.parametrize("trainer", ["CoOp", "ZeroshotCLIP"])
def test_words_that_the_backbone_has_never_seen_are_named(runs, trainer, capsys):
    source = runs(trainer).output_dir
    capsys.readouterr()
    load_classifier(source, ["red circle", "Coffee Mug", "running_shoes"])
    said = capsys.readouterr().out
    assert "never seen these words of class names: 'red', 'circle', 'Coffee', 'Mug', 'running', 'shoes'" in said
    assert "one and the same: 'red circle', 'Coffee Mug', 'running_shoes'" in said
