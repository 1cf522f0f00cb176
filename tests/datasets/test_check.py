"""``python -m datasets.check``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.data_manager import DatasetWrapper
from dassl.utils import UserError
from datasets import check as check_command
from datasets.acquire import check
from datasets.acquire.class_counts import compact_lines, count_classes, table_lines
from datasets.eurosat import EuroSAT
from datasets.layout.items import Item
from datasets.layout.sources import Counts
from datasets.layout.splits import Parts


@pytest.fixture
def run(capsys):
    """Exit status and output of the command."""

    def run_check(*args):
        said = ""
        try:
            status = check_command.main([str(arg) for arg in args])
        except UserError as error:  # as `errors_in_one_line` ends the program
            status, said = 1, f"error: {error}\n"
        captured = capsys.readouterr()
        return status, captured.out + captured.err + said

    return run_check


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    """What the EuroSAT of conftest.py holds: 5 classes of 4, 3 and 2 images."""
    monkeypatch.setattr(EuroSAT, "counts", Counts(5, 20, 15, 10))


def test_a_data_set_in_order(eurosat, run):
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 0
    assert said.splitlines() == [
        "ok       EuroSAT              5 classes, train 20, val 15, test 10; 45 images decoded",
        "class    EuroSAT              images of each class (train/val/test):",
        "class    EuroSAT              ant 4/3/2; bee 4/3/2; cat 4/3/2; dog 4/3/2; elk 4/3/2",
    ]
    assert sorted(path.name for path in (eurosat / "eurosat").iterdir()) == ["2750", "split_zhou_EuroSAT.json"]


def test_fast_decodes_a_sample(eurosat, run, monkeypatch):
    monkeypatch.setattr(check, "FAST_SAMPLE", 7)
    assert "7 images decoded" in run("--root", eurosat, "--fast", "eurosat")[1]


def test_an_image_that_cannot_be_read_is_named(eurosat, run):
    broken = eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert said.startswith("wrong    EuroSAT              1 of 45 images cannot be read, first: ")
    assert str(broken) in said


def test_an_image_that_is_missing_is_named(eurosat, run):
    (eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg").unlink()
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert said.startswith("missing  EuroSAT              1 of 45 images of ")
    assert f"python -m datasets.prepare EuroSAT --root {eurosat}" in said


def leave_out_a_test_image(root):
    """Take the first test image out of EuroSAT's split file."""
    path = root / "eurosat" / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(split | {"test": split["test"][1:]}))


def test_counts_are_compared(eurosat, run):
    leave_out_a_test_image(eurosat)
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert "has 9 test images instead of 10" in said


def test_a_missing_split_file_is_not_replaced(eurosat, run):
    (eurosat / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    for folder in (eurosat / "eurosat" / "2750").iterdir():
        (folder / "more.jpg").write_bytes((folder / "val_0.jpg").read_bytes())
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert "split_zhou_EuroSAT.json is missing; download it with: python -m datasets.prepare EuroSAT" in said
    assert not (eurosat / "eurosat" / "split_zhou_EuroSAT.json").exists()


def test_one_line_for_each_of_the_fifteen(eurosat, run):
    status, said = run("--root", eurosat)
    lines = [line for line in said.splitlines() if not line.startswith("class ")]
    assert status == 1
    assert len(lines) == 15
    assert sum(line.startswith("ok ") for line in lines) == 1
    missing = [line for line in lines if line.startswith("missing")]
    assert len(missing) == 14
    assert all("python -m datasets.prepare" in line for line in missing)


def test_training_gives_the_same_message(eurosat, run, build):
    (eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        build("EuroSAT", eurosat)
    assert str(error.value).removeprefix("EuroSAT: ") in run("--root", eurosat, "EuroSAT")[1]


def test_own_data(tmp_path, run, put_image):
    for number in range(10):
        put_image(tmp_path / "mine" / "ant" / f"{number}.jpg")
    assert run("--path", tmp_path / "mine")[0] == 0
    status, said = run("--path", tmp_path / "mine.csv")
    assert status == 1
    assert "mine.csv is missing" in said


def test_own_data_is_reported_in_full(tmp_path, run, put_image):
    for part, count in (("train", 3), ("valid", 2)):
        for shade, cls in enumerate(("ant", "bee")):
            for number in range(count):
                put_image(tmp_path / "mine" / part / cls / f"{number}.png", 100 * shade + 10 * count + number)
    (tmp_path / "mine" / "train" / "ant" / "notes.txt").write_text("")
    status, said = run("--path", tmp_path / "mine")
    assert status == 0
    served = "(the val images are also the test images)"
    assert f"ok       mine                 2 classes, train 6, val 0, test 4 {served}; 10 images decoded\n" in said
    assert "class    mine                 ant 3/0/2; bee 3/0/2\n" in said
    assert "1 *.txt files (first train/ant/notes.txt)" in said
    broken = [tmp_path / "mine" / "train" / "bee" / f"{number}.png" for number in range(2)]
    for path in broken:
        path.write_bytes(b"")
    status, said = run("--path", tmp_path / "mine")
    assert status == 1
    assert "wrong    mine                 2 of 10 images cannot be read, first: " in said
    bad = [line for line in said.splitlines() if line.startswith("bad      mine ")]
    assert len(bad) == 2 and all(str(path) in line for path, line in zip(broken, bad, strict=True))


@pytest.mark.parametrize(
    ("copy", "message"),
    [
        ("train/bee/copy.png", "1 images have two labels: "),
        ("test/ant/copy.png", "1 images are in two parts: "),
    ],
)
def test_one_image_under_two_labels_or_in_two_parts(tmp_path, run, put_image, copy, message):
    shade = 0
    for part in ("train", "test"):
        for cls in ("ant", "bee"):
            for number in range(2):
                shade += 9
                put_image(tmp_path / "mine" / part / cls / f"{number}.png", shade)
    assert run("--path", tmp_path / "mine")[0] == 0
    shutil.copy(tmp_path / "mine" / "train" / "ant" / "0.png", tmp_path / "mine" / copy)
    status, said = run("--path", tmp_path / "mine")
    assert status == 1
    assert message in said and f"mine/{copy}" in said and "mine/train/ant/0.png" in said


def test_every_missing_image_is_named(eurosat, run):
    gone = [eurosat / "eurosat" / "2750" / "cat" / f"val_{number}.jpg" for number in (0, 2)]
    for path in gone:
        path.unlink()
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert all(f"bad      EuroSAT              missing: {path}\n" in said for path in gone)


def test_classes_are_counted_one_a_line_where_that_is_asked_for(eurosat, run):
    status, said = run("--root", eurosat, "--per-class", "EuroSAT")
    assert status == 0
    assert said.count("class    EuroSAT ") == 5
    assert "class    EuroSAT              cat: train 4, val 3, test 2\n" in said


def test_what_is_wrong_does_not_hide_the_rest(eurosat, run):
    """A count, a picture and an image in two parts: all are said."""
    path = eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(split | {"test": [*split["test"][1:], *split["train"][:2]]}))
    broken = eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg"
    broken.write_bytes(b"")
    status, said = run("--root", eurosat, "EuroSAT")
    (wrong,) = [line for line in said.splitlines() if line.startswith("wrong ")]
    assert status == 1
    assert "has 11 test images instead of 10" in wrong and "1 of 44 images cannot be read" in wrong
    assert "which is also in train (2 such entries)" in wrong
    assert f"bad      EuroSAT              {broken} is not an image" in said


def test_class_names_that_are_one_do_not_hide_pictures(tmp_path, run, put_image):
    for cls in ("hot dog", "hot_dog"):
        for number in range(4):
            put_image(tmp_path / "mine" / cls / f"{number}.png", 50 * number + len(cls.split()))
    (tmp_path / "mine" / "hot_dog" / "1.png").write_bytes(b"")
    status, said = run("--path", tmp_path / "mine")
    assert status == 1
    assert "the same prompt text" in said and "1 of 8 images cannot be read" in said


def test_classes_are_counted_where_something_is_wrong(eurosat, run):
    leave_out_a_test_image(eurosat)
    status, said = run("--root", eurosat, "EuroSAT")
    assert status == 1
    assert "dog 4/3/1; elk 4/3/2\n" in said


def test_a_thousand_classes_are_counted_in_lines_that_fit(tmp_path):
    """Every class once, in order of label, several a line; val is empty where it is the test part."""
    test = [Item(f"{label}.jpg", label, f"class {label:03d}") for label in range(1000)]
    counts = count_classes(Parts(test * 1300, [], test))
    head, *lines = compact_lines(counts)
    assert head == "images of each class (train/val/test):"
    assert max(map(len, lines)) <= 90 and len(lines) < 260
    assert "; ".join(lines).split("; ") == [f"class {label:03d} 1,300/0/1" for label in range(1000)]
    assert table_lines(counts)[7] == "class 007: train 1,300, val 0, test 1"
    assert compact_lines([]) == []


@pytest.mark.parametrize(
    ("size", "flag", "key"),
    [((30, 20), "--max-pixels", "INPUT.MAX_PIXELS"), ((7, 2), "--max-aspect-ratio", "INPUT.MAX_ASPECT_RATIO")],
)
def test_bounds_of_images(eurosat, run, size, flag, key):
    """A flag here is the key in training."""
    bound = {"--max-pixels": 600, "--max-aspect-ratio": 4}[flag]
    Image.new("RGB", size).save(eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg")
    assert run("--root", eurosat, flag, bound, "EuroSAT")[0] == 0
    status, said = run("--root", eurosat, flag, bound - 1, "EuroSAT")
    assert status == 1
    assert f"more than {key} {bound - 1}" in said and f"or raise {key}" in said
    Image.new("RGB", size).save(eurosat / "mine.png")
    (eurosat / "mine.csv").write_text("mine.png,one,train\nmine.png,one,train\neurosat/2750/cat/val_0.jpg,one,test\n")
    assert run("--path", eurosat / "mine.csv", flag, bound)[0] == 0
    assert f"more than {key}" in run("--path", eurosat / "mine.csv", flag, bound - 1)[1]


def test_the_bounds_are_those_of_training(eurosat, run, build):
    """An image of 1 x 300 pixels is wrong in both, and right in both with the key and the flag."""
    path = eurosat / "eurosat" / "2750" / "cat" / "val_1.jpg"
    Image.new("RGB", (1, 300)).save(path)
    (item,) = [item for item in build("EuroSAT", eurosat).val if item.impath == str(path)]
    cfg = get_cfg_default()
    with pytest.raises(UserError) as error:
        DatasetWrapper(cfg, [item], lambda image: image.size)[0]
    assert f"bad      EuroSAT              {error.value}\n" in run("--root", eurosat, "EuroSAT")[1]
    cfg.INPUT.MAX_ASPECT_RATIO = 300
    assert DatasetWrapper(cfg, [item], lambda image: image.size)[0]["img"] == (1, 300)
    assert run("--root", eurosat, "--max-aspect-ratio", "300", "EuroSAT")[0] == 0


def test_odd_files_are_a_line_each(tmp_path, run, put_image):
    for part in ("train", "test"):
        for number in range(3):
            put_image(tmp_path / "mine" / part / "ant" / f"{number}.png", 50 * number + len(part))
    folder = tmp_path / "mine" / "train" / "ant"
    (folder / "dangling.jpg").symlink_to(folder / "gone.jpg")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    Image.new("1", (1, 2_000_000)).save(folder / "long.png")
    Image.new("1", (13_300, 13_300)).save(folder / "large.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(b"")
    status, said = run("--path", tmp_path / "mine")
    assert status == 1
    bad = [line for line in said.splitlines() if line.startswith("bad ")]
    assert len(bad) == 5
    for name in ("dangling.jpg", "fifo.jpg", "device.jpg", "long.png", "large.png"):
        assert sum(name in line for line in bad) == 1
    assert "1 files with a name that is not UTF-8 (first train/ant/\\udcff.jpg)" in said


def test_arguments_that_make_no_sense(tmp_path, run, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)
    assert run() == (1, "error: which data? give --root DATA (or set DATA), or --path for custom data\n")
    assert "unknown data set 'oxford_pet'; did you mean OxfordPets?" in run("--root", tmp_path, "oxford_pet")[1]
    assert run("--root", tmp_path / "none")[1].startswith(f"error: data folder {tmp_path}/none is missing")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--path", "mine", "EuroSAT"), "--path is checked alone: leave out EuroSAT"),
        (("INPUT.MAX_PIXELS", "900"), "config keys are not accepted here; --max-pixels and --max-aspect-ratio set"),
        (("--max-pixels", "0"), "should be at least 1, not 0"),
        (("--max-aspect-ratio", "2²"), "should be a whole number, not '2²'"),
    ],
)
def test_words_that_would_have_no_effect(capsys, words, says):
    with pytest.raises(SystemExit) as end:
        check_command.main(words)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
