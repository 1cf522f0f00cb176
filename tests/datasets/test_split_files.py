"""Split files: what is refused, with which words."""

from __future__ import annotations

import json
import re

import pytest

from datasets.acquire.check import print_report
from datasets.acquire.names import readers
from datasets.oxford_pets import OxfordPets


def change(root, edit):
    path = root / "eurosat" / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(edit(split)))


def with_row(row):
    def edit(split):
        split["train"][3] = row
        return split

    return edit


def without(key):
    return lambda split: {name: rows for name, rows in split.items() if name != key}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda split: [1, 2], "should contain a JSON object, not a list"),
        (without("val"), "has no list 'val'"),
        (lambda split: split | {"test": "all"}, "has no list 'test'"),
        (lambda split: split | {"train": []}, "the training part is empty"),
        (with_row(["dog/train_3.jpg", 3]), "entry 3 of train is"),
        (with_row(["dog/train_3.jpg", "three", "dog"]), "entry 3 of train: label 'three' is not a whole number"),
        (with_row(["dog/train_3.jpg", "0_1", "dog"]), "entry 3 of train: label '0_1' is not a whole number"),
        (with_row(["dog/train_3.jpg", -1, "dog"]), "label -1 is not a whole number of at least 0"),
        (with_row(["dog/train_3.jpg", 2.5, "dog"]), "label 2.5 is not a whole number"),
        (with_row(["dog/train_3.jpg", True, "dog"]), "label True is not a whole number"),
        (with_row(["dog/train_3.jpg", 3, 7]), "path and class name must be text"),
        (with_row(["../../etc/passwd", 3, "dog"]), "leads out of the data set"),
        (with_row(["dog/../../x.jpg", 3, "dog"]), "leads out of the data set"),
        (with_row(["/etc/passwd", 3, "dog"]), "leads out of the data set"),
        (with_row(["dog/none.jpg", 3, "dog"]), "1 of 45 images of .* are missing, first .*dog/none.jpg"),
        (with_row(["dog/train_3.jpg", 3, "hound"]), "label 3 has the names 'dog' and 'hound'"),
        (with_row(["dog/train_3.jpg", 7, "gnu"]), "label 5 has no training image, but label 7 has"),
        (
            lambda split: split | {"train": [row for row in split["train"] if row[1] != 4]},
            "label 4 occurs in val, but has no training image",
        ),
    ],
)
def test_a_bad_split_file_is_named_with_the_entry(eurosat, build, edit, message):
    change(eurosat, edit)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        build("EuroSAT", eurosat)
    assert str(error.value).startswith("EuroSAT: ")
    assert "split_zhou_EuroSAT.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert "python -m datasets.prepare EuroSAT" in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["dog/train_2.jpg", 2, "cat"], "entry 3 of train is .*train_2.jpg with label 2, which has label 3 in"),
        (["dog/test_1.jpg", 3, "dog"], "entry 1 of test is .*test_1.jpg, which is also in train"),
        (["dog/./test_1.jpg", 3, "dog"], "entry 1 of test is .*test_1.jpg, which is also in train"),
    ],
)
def test_an_image_that_a_published_split_lists_twice_is_said(eurosat, build, capsys, row, message):
    """Training goes on, since published splits are used as they are; the check calls it wrong."""
    change(eurosat, with_row(row))
    assert len(build("EuroSAT", eurosat).train_x) > 0
    assert re.search(f"Note: .*split_zhou_EuroSAT.json: {message}", capsys.readouterr().out)
    assert not print_report(readers()["EuroSAT"].at(str(eurosat / "eurosat")), fast=True, counts=None)
    assert re.search(f"wrong .*{message}", capsys.readouterr().out)


@pytest.mark.parametrize("content", [b"", b'{"train": [', b"\xff\xfe\x00bad"])
def test_a_file_that_is_no_json_is_named(eurosat, build, content):
    (eurosat / "eurosat" / "split_zhou_EuroSAT.json").write_bytes(content)
    with pytest.raises(ValueError, match="split_zhou_EuroSAT.json(: it)? is not"):
        build("EuroSAT", eurosat)


def test_labels_may_be_written_as_text_and_unknown_keys_are_ignored(eurosat, build):
    before = build("EuroSAT", eurosat)
    change(eurosat, lambda split: {k: [[p, str(y), c] for p, y, c in rows] for k, rows in split.items()} | {"about": 1})
    after = build("EuroSAT", eurosat)
    assert [item.label for item in after.train_x] == [item.label for item in before.train_x]


def test_the_lineage_static_functions_write_what_they_read(eurosat, build, tmp_path):
    dataset = build("EuroSAT", eurosat)
    images = str(eurosat / "eurosat" / "2750")
    copy = str(tmp_path / "copy.json")
    OxfordPets.save_split(dataset.train_x, dataset.val, dataset.test, copy, images)
    train, val, test = OxfordPets.read_split(copy, images)
    assert [item.impath for item in train] == [item.impath for item in dataset.train_x]
    assert (len(val), len(test)) == (15, 10)
    base = OxfordPets.subsample_classes(train, val, test, subsample="base")
    assert sorted({item.classname for item in base[0]}) == ["ant", "bee", "cat"]
