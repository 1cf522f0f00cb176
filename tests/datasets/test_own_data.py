"""The user's own images: a folder, or a CSV file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dassl.utils import UserError, read_image
from datasets.custom_csv import ImageCSV, sort_labels
from datasets.custom_folder import ImageFolder
from datasets.layout.custom_data import read_names

ANIMALS = ("ant", "bee", "cat")


@pytest.fixture
def fill(put_image):
    """Put ``count`` images into each class folder below ``folder``."""

    def put(folder, count, classes=ANIMALS):
        for cls in classes:
            for number in range(count):
                put_image(folder / cls / f"{number}.jpg")
        return folder

    return put


@pytest.fixture
def folder(tmp_path, build):
    """Build an ImageFolder from tmp_path/my_images."""

    def build_folder(**settings):
        return build("ImageFolder", PATH=tmp_path / "my_images", OUTPUT_DIR=tmp_path / "output", **settings)

    folder.path = tmp_path / "my_images"
    return build_folder


def sizes(dataset):
    return tuple(len(part or []) for part in (dataset.train_x, dataset.val, dataset.test))


@pytest.fixture
def images(tmp_path):
    return tmp_path / "my_images"


def test_folders_train_val_test(images, fill, folder):
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        fill(images / part, count)
    dataset = folder()
    assert dataset.classnames == list(ANIMALS)
    assert sizes(dataset) == (15, 6, 9)
    assert not list(images.glob("*.json"))  # the folders are the split


def test_without_test_folder_val_serves_as_test(images, fill, folder):
    fill(images / "train", 5)
    fill(images / "val", 2)
    dataset = folder(shots=1)
    assert sizes(dataset) == (3, 6, 6)


def test_without_val_folder_there_is_no_val(images, fill, folder):
    fill(images / "train", 5)
    fill(images / "test", 2, classes=("bee",))
    dataset = folder(shots=1, subset="base")
    assert sizes(dataset) == (2, 0, 2)


def test_one_level_is_split_once(images, fill, folder):
    fill(images, 10)
    dataset = folder(seed=1)
    assert sizes(dataset) == (15, 6, 9)  # 50/20/30 of 10 images in each of 3 classes
    assert len({item.impath for item in dataset.train_x + dataset.val + dataset.test}) == 30
    assert len(json.loads((images / "split_folder.json").read_text())["train"]) == 15
    again = folder(seed=2, shots=2)
    assert [item.impath for item in again.test] == [item.impath for item in dataset.test]
    assert folder(seed=2, shots=2).classnames == list(ANIMALS)  # the folder with the draws is no class


def test_split_and_draws_in_a_folder_of_choice(images, fill, folder, tmp_path, capsys):
    """Nothing is written beside the photos; the log says where it went, and how to choose."""
    fill(images, 10)
    chosen = folder(seed=1, shots=2, SPLITS_DIR=str(tmp_path / "lists"))
    place = tmp_path / "lists" / "my_images"
    out = capsys.readouterr().out
    assert f"Saved split to {place / 'split_folder.json'}\n" in out and "SPLITS_DIR" not in out
    assert sorted(path.name for path in images.iterdir()) == sorted(ANIMALS)
    assert {str(path.relative_to(place)) for path in place.rglob("*.json")} == {
        "split_folder.json", "split_fewshot/shot_2-seed_1.json",
    }  # fmt: skip
    again = folder(seed=1, shots=2, SPLITS_DIR=str(tmp_path / "lists"))
    beside = folder(seed=1, shots=2)
    saved = f"Saved split to {images / 'split_folder.json'} (DATASET.SPLITS_DIR chooses another folder)\n"
    assert saved in capsys.readouterr().out
    for other in (again, beside):
        assert [item.impath for item in other.train_x] == [item.impath for item in chosen.train_x]


def test_a_folder_of_the_same_name_does_not_use_the_split_of_another(images, fill, folder, build, tmp_path):
    """Both have cat/0.jpg. A folder that was moved keeps its split."""
    other = tmp_path / "elsewhere" / images.name
    fill(images, 10)
    fill(other, 10)
    splits = {"SPLITS_DIR": str(tmp_path / "lists")}
    first = folder(seed=1, shots=2, **splits)
    place = tmp_path / "lists" / images.name
    for folder_with_parts in (False, True):  # with parts there is only the draw
        if folder_with_parts:
            (place / "split_folder.json").unlink()
            shutil.copytree(other, other / "test")
            for name in ANIMALS:
                shutil.move(other / name, other / "train" / name)
        with pytest.raises(UserError, match=f"has the split and draws of {images}, not of {other}: choose another"):
            build("ImageFolder", tmp_path, shots=2, PATH=str(other), **splits)
    shutil.rmtree(other)
    images.rename(other)
    moved = build("ImageFolder", tmp_path, seed=1, shots=2, PATH=str(other), **splits)
    assert [Path(item.impath).name for item in moved.train_x] == [Path(item.impath).name for item in first.train_x]


def test_train_alone_is_split_too(images, fill, folder):
    fill(images / "train", 10)
    assert sizes(folder()) == (15, 6, 9)
    assert (images / "split_folder.json").is_file()


def test_images_that_came_later_are_mentioned(images, fill, folder, put_image, capsys):
    fill(images, 10)
    folder()
    put_image(images / "cat" / "new.jpg")
    assert sizes(folder()) == (15, 6, 9)
    assert "1 images are not in" in capsys.readouterr().out


def test_base_and_new_classes(images, fill, folder):
    fill(images, 10)
    assert folder(subset="base", shots=2).classnames == ["ant", "bee"]
    assert folder(subset="new", shots=2).classnames == ["cat"]


def test_a_class_called_train_is_a_class(images, fill, folder):
    fill(images, 10, classes=("bus", "train"))
    assert folder().classnames == ["bus", "train"]


def test_images_in_subfolders_belong_to_the_class(images, fill, folder, put_image):
    fill(images / "train", 2)
    fill(images / "test", 2)
    put_image(images / "train" / "ant" / "2019" / "x.png")
    assert len(folder().train_x) == 7


def test_data_that_are_refused_get_no_split_file(images, fill, folder, tmp_path, put_lines):
    """It would name folders that the user then renames."""
    fill(images, 10, classes=("hot dog", "hot_dog"))
    with pytest.raises(UserError, match="the same prompt text"):
        folder()
    assert not (images / "split_folder.json").exists()
    put_lines(tmp_path / "names.txt", ["hot dog\tsausage", "hot_dog\twarm dog"])
    assert folder(CLASSNAMES=tmp_path / "names.txt").classnames == ["sausage", "warm dog"]


def test_class_names_from_a_file(images, fill, folder, tmp_path, put_lines):
    fill(images, 10, classes=("n01", "big cat"))
    put_lines(tmp_path / "names.txt", ["big cat\tlion", "n01 giant ant"])
    assert folder(CLASSNAMES=tmp_path / "names.txt").classnames == ["lion", "giant ant"]
    assert folder(CLASSNAMES=tmp_path / "names.txt", shots=2).classnames == ["lion", "giant ant"]
    assert folder(shots=2).classnames == ["big cat", "n01"]  # the split on disk keeps the folder names
    kept = json.loads((images / "split_fewshot" / "shot_2-seed_1.json").read_text())
    assert {name for _, _, name in kept["train"]} == {"big cat", "n01"}  # and so do draws
    put_lines(tmp_path / "names.txt", ["big cat\ttiger", "n01 ant"])
    assert folder(CLASSNAMES=tmp_path / "names.txt", shots=2).classnames == ["tiger", "ant"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ant Ameise", "bee Biene"], "has no class name for 'cat'"),
        (["ant Ameise", "bee Biene", "cat Katze", "dog Hund"], "a name for 'dog', which the data do not have"),
        (["ant Ameise", "ant Biene"], "names 'ant' twice"),
        (["ant"], "line 'ant' is not a folder and its class name"),
        (["ant 0 Ameise", "bee 1 Biene", "cat 2 Katze"], "class names start with a number .'0 Ameise'.; leave it out"),
    ],
)
def test_a_class_name_file_that_does_not_match(images, fill, folder, tmp_path, put_lines, lines, message):
    fill(images, 10)
    put_lines(tmp_path / "names.txt", lines)
    with pytest.raises(UserError, match=f"ImageFolder: .*names.txt.*{message}"):
        folder(CLASSNAMES=tmp_path / "names.txt")


def test_what_is_wrong_with_a_folder_is_said(images, fill, folder, build):
    with pytest.raises(UserError, match="DATASET.PATH is not set"):
        build("ImageFolder", PATH="")
    with pytest.raises(UserError, match="my_images is missing"):
        folder()
    images.mkdir()
    with pytest.raises(UserError, match="my_images has no class folders"):
        folder()
    fill(images, 3)
    with pytest.raises(UserError, match="class 'ant' has 3 images, too few"):
        folder()
    fill(images, 10)
    (images / "empty").mkdir()
    with pytest.raises(UserError, match="class folder .*empty has no images"):
        folder()


def test_a_test_class_that_train_lacks(images, fill, folder):
    fill(images / "train", 5)
    fill(images / "test", 2, classes=("ant", "yak"))
    with pytest.raises(UserError, match="test has the class folder 'yak', which train does not have"):
        folder()


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Training", None, "Testing"), ("train", "valid", None), ("TRAIN", "Validation", "TEST"), ("trn", "dev", "tst")]
    + [("train_set", "val-images", "Test Data")],
)
def test_parts_in_their_usual_spellings(images, fill, folder, train, val, test):
    for name, count in ((train, 5), (val, 2), (test, 3)):
        if name:
            fill(images / name, count)
    dataset = folder()
    assert dataset.classnames == list(ANIMALS)
    assert sizes(dataset) == (15, 6 if val else 0, 9 if test else 6)
    assert not list(images.glob("*.json"))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "Training"), "has Training and train, which both mean train"),
        (("valid", "Testing"), "has Testing, valid but no folder train; expected:"),
        (("first half", "second half"), "first half has only folders, so it is not a class; expected:"),
        (("train/2019", "train/2020", "test/2019"), "2019 has only folders, so it is not a class"),
        (("train", "dev", "eval"), "eval/ has class folders of train, and there is no test: rename it to test if"),
    ],
)
def test_folders_that_are_neither_parts_nor_classes(images, fill, folder, folders, message):
    for name in folders:
        fill(images / name, 10)
    with pytest.raises(UserError, match=message):
        folder()


def test_parts_without_class_folders_are_not_classes(images, folder, put_image):
    for part in ("train", "test"):
        for number in range(10):
            put_image(images / part / f"{number}.jpg")
    with pytest.raises(UserError, match="outside of a class folder; expected: <class>/<images>"):
        folder()


def test_images_beside_the_classes_of_a_part(images, fill, folder, put_image):
    fill(images / "train", 5)
    fill(images / "test", 3)
    put_image(images / "test" / "unsorted.jpg")
    with pytest.raises(UserError, match="has the image unsorted.jpg outside of a class folder"):
        folder()


def test_a_split_of_other_classes_is_not_used(images, fill, folder):
    fill(images, 10)
    folder()
    (images / "bee").rename(images / "wasp")
    with pytest.raises(UserError, match="are missing|has the class 'bee'"):
        folder()


@pytest.mark.parametrize("with_test", [False, True])
def test_what_is_left_out_is_named(images, fill, folder, put_image, capsys, with_test):
    root = images / "train" if with_test else images
    fill(root, 10)
    if with_test:
        fill(images / "test", 2)
        fill(images / "extra", 1)
    put_image(images / "ant.webp" if not with_test else images / "more.png")
    (root / "ant" / "notes.txt").write_text("mine")
    (root / "bee" / "raw.heic").write_text("")
    (root / "bee" / ".hidden.jpg").write_text("")
    (root / "cat" / "more").symlink_to(root / "ant")
    for _ in range(2):  # the second time from the split file
        folder()
        (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: left out in")]
        below = "train/" if with_test else ""
        assert f"1 *.txt files (first {below}ant/notes.txt)" in said
        assert f"1 *.heic files (first {below}bee/raw.heic)" in said
        assert f"1 hidden files (first {below}bee/.hidden.jpg)" in said
        assert f"1 hidden or linked folders (first {below}cat/more)" in said
        assert ("1 *.png files (first more.png)" if with_test else "1 *.webp files (first ant.webp)") in said
        assert ("1 folders (first extra)" in said) == with_test
        assert "split_f" not in said


@pytest.mark.parametrize(
    "suffix", ["jfif", "JPE", "mpo", "avif", "jp2", "tga", "ico", "pbm", "pcx", "sgi", "dds", "TIF"]
)
def test_images_of_every_suffix_that_pillow_reads(images, fill, folder, suffix):
    fill(images / "train", 2)
    fill(images / "test", 2)
    path = images / "train" / "ant" / f"more.{suffix}"
    kind = "1" if suffix == "pbm" else "RGB"
    try:
        Image.new(kind, (16, 16), 1 if kind == "1" else (250, 0, 0)).save(path)
    except (OSError, KeyError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    assert str(path) in [item.impath for item in folder().train_x]
    assert read_image(path).size == (16, 16)


def test_own_data_is_called_by_its_folder_or_file(tmp_path):
    assert ImageFolder.at(str(tmp_path / "my pets")).display_name == "my pets"
    assert ImageCSV.at(str(tmp_path / "pets.v2.csv")).display_name == "pets.v2"


@pytest.fixture
def csv_file(tmp_path, fill, put_lines):
    fill(tmp_path / "pictures", 10)

    def write(lines):
        put_lines(tmp_path / "list.csv", lines)
        return tmp_path / "list.csv"

    return write


@pytest.mark.parametrize("header", [[], ["label,path,split"]])
def test_csv_with_split(csv_file, build, tmp_path, header):
    lines = []
    for number, part in enumerate(["train", "train", "val", "test"]):
        for cls in ("cat", "ant"):
            path = f"pictures/{cls}/{number}.jpg" if number else str(tmp_path / "pictures" / cls / "0.jpg")
            lines.append(",".join((cls, path, part) if header else (path, cls, part)))
    dataset = build("ImageCSV", PATH=csv_file(header + lines), shots=1, OUTPUT_DIR=tmp_path / "output")
    assert dataset.classnames == ["ant", "cat"]
    assert sizes(dataset) == (2, 2, 2)
    assert (tmp_path / "split_fewshot_list" / "shot_1-seed_1.json").is_file()


def test_csv_without_split_is_cut_the_same_way_each_time(csv_file, build, tmp_path):
    path = csv_file([f"pictures/{cls}/{number}.jpg,{cls}" for cls in ANIMALS for number in range(10)])
    first, second = (build("ImageCSV", PATH=path, seed=seed, OUTPUT_DIR=tmp_path / "output") for seed in (1, 2))
    assert sizes(first) == (15, 6, 9)
    assert [item.impath for item in first.test] == [item.impath for item in second.test]


def test_csv_lines_that_repeat_an_image_are_counted_once(csv_file, build, tmp_path, capsys):
    lines = [f"pictures/{cls}/{number}.jpg,{cls}" for cls in ANIMALS for number in range(10)]
    dataset = build("ImageCSV", PATH=csv_file(lines + lines[:3]), OUTPUT_DIR=tmp_path / "output")
    assert sizes(dataset) == (15, 6, 9)
    paths = [item.impath for item in dataset.train_x + dataset.val + dataset.test]
    assert len(set(paths)) == len(paths)
    said = capsys.readouterr().out
    assert said.count("3 lines of") == 1 and "repeat an earlier one (first line 31)" in said


def test_csv_columns_that_are_not_used_are_named(csv_file, build, tmp_path, capsys):
    lines = [f"pictures/{cls}/{number}.jpg,{cls},x" for cls in ANIMALS for number in range(10)]
    build("ImageCSV", PATH=csv_file(["path,label,partition", *lines]), OUTPUT_DIR=tmp_path / "output")
    assert "the columns 'partition' (used: path, label, split)" in capsys.readouterr().out


@pytest.mark.parametrize("test", ["test", "Testing", "valid"])
def test_a_csv_column_of_parts_with_another_name_is_refused(csv_file, build, tmp_path, test):
    lines = [
        f"pictures/{cls}/{number}.jpg,{cls},{'train' if number else test}" for cls in ANIMALS for number in range(9)
    ]
    path = csv_file(["path,label,set", *lines])
    with pytest.raises(
        UserError, match="the column 'set' names parts: call it split, with the values train, val, test"
    ):
        build("ImageCSV", PATH=path, OUTPUT_DIR=tmp_path / "output")


@pytest.mark.parametrize("second", ["hot_dog", "Hot Dog", "hot  dog"])
def test_classes_with_one_prompt_text(images, fill, folder, csv_file, build, tmp_path, put_lines, second):
    fill(images, 10, classes=("hot dog", second, "tea"))
    with pytest.raises(UserError, match=f"my_images: classes have the same prompt text.*{second}"):
        folder()
    lines = [f"pictures/ant/{number}.jpg,hot dog" for number in range(5)]
    lines += [f"pictures/bee/{number}.jpg,{second}" for number in range(5)]
    with pytest.raises(UserError, match="list.csv: classes have the same prompt text.*'hot dog'"):
        build("ImageCSV", PATH=csv_file(lines), OUTPUT_DIR=tmp_path / "output")
    put_lines(tmp_path / "names.txt", ["hot dog\tsausage", f"{second}\twarm puppy", "tea\ttea"])
    assert "sausage" in folder(CLASSNAMES=tmp_path / "names.txt").classnames


def test_csv_labels_that_are_numbers_keep_their_order(csv_file, build, tmp_path, put_lines):
    lines = ["pictures/ant/0.jpg,10,train", "pictures/ant/1.jpg,9,train", "pictures/ant/2.jpg,9,test"]
    put_lines(tmp_path / "names.txt", ["9 nine", "10 ten"])
    dataset = build("ImageCSV", PATH=csv_file(lines), CLASSNAMES=tmp_path / "names.txt", OUTPUT_DIR=tmp_path)
    assert dataset.classnames == ["nine", "ten"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "list.csv lists no images"),
        (["path,label"], "list.csv lists no images"),
        (
            ["filename,class", "pictures/ant/0.jpg,ant"],
            "line 1 is 'filename,class'.*nor a header with the columns path,label",
        ),
        (["pictures/ant/0.jpg,ant", "pictures/bee/0.jpg,bee,test"], "line 2 has 3 columns, not 2"),
        (["path,label,split", "pictures/ant/0.jpg,ant"], "line 2 has 2 columns, not 3"),
        (["path,label,path", "pictures/ant/0.jpg,ant,x"], "names a column twice"),
        (
            ["pictures/ant/0.jpg,ant", "pictures/bee/0.jpg,bee", "./pictures/ant/0.jpg,bee"],
            "list.csv: line 3 gives ./pictures/ant/0.jpg the label 'bee', line 1 'ant'",
        ),
        (
            ["pictures/ant/0.jpg,ant,train", "pictures/bee/0.jpg,bee,test", "pictures/ant/0.jpg,ant,test"],
            "list.csv: line 3 gives pictures/ant/0.jpg the part 'test', line 1 'train'",
        ),
        (["pictures/ant/0.jpg"], "list.csv: line 1 .* not a path and a label"),
        (["pictures/ant/0.jpg,ant", 'pictures/bee/0.jpg,"bee', 'pictures/ant/1.jpg,ant"'], "has a line break in it"),
        (["pictures/ant/0.jpg,ant", 'pictures/bee/0.jpg,"bee'], "is not valid CSV"),
        (["pictures/ant/0.jpg,ant", 'pictures/bee/0.jpg,"bee"x'], "is not valid CSV"),
        (["path,label", "pictures/ant/0.jpg,"], "list.csv: line 2 .* not a path and a label"),
        (["pictures/ant/0.jpg,ant,dev"], "line 1: split 'dev' is not one of train, val, test"),
        (["pictures/ant/0.jpg,ant,train", "pictures/ant/99.jpg,ant,test"], "1 of 2 images of .*list.csv are missing"),
        (
            ["pictures/ant/0.jpg,ant,train", "pictures/bee/0.jpg,bee,test"],
            "label 1 occurs in test, but has no training",
        ),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said(csv_file, build, tmp_path, lines, message):
    with pytest.raises(UserError, match=f"ImageCSV: .*{message}"):
        build("ImageCSV", PATH=csv_file(lines), OUTPUT_DIR=tmp_path / "output")


def test_labels_of_one_number_have_one_order(csv_file, build, tmp_path):
    """Whatever the seed of Python's hashes."""
    lines = [
        f"pictures/ant/{number}.jpg,{label},{part}"
        for number, (label, part) in enumerate(
            (label, part) for part in ("train", "test") for label in ("1", "001", "01")
        )
    ]
    path = csv_file(["path,label,split", *lines])
    assert build("ImageCSV", PATH=path, OUTPUT_DIR=tmp_path).classnames == ["001", "01", "1"]


def test_a_csv_file_that_never_ends(tmp_path, build):
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(UserError, match="cannot read .*fifo.csv: it is not a regular file"):
        build("ImageCSV", PATH=tmp_path / "fifo.csv", OUTPUT_DIR=tmp_path)


def test_a_csv_file_that_is_missing(tmp_path, build):
    with pytest.raises(UserError, match="none.csv is missing; check DATASET.PATH"):
        build("ImageCSV", PATH=tmp_path / "none.csv", OUTPUT_DIR=tmp_path)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ({"10", "9", "2"}, ["2", "9", "10"]),
        ({"10", "٩", "2"}, ["2", "٩", "10"]),  # Arabic digits are digits
        ({"10", "9", "²"}, ["10", "9", "²"]),  # a superscript is none: all are text
        ({"10", "9", "1" * 5000}, ["10", "1" * 5000, "9"]),  # more digits than Python makes a number of
    ],
)
def test_labels_that_are_numbers_ascend_as_such(names, ordered):
    assert sort_labels(names) == ordered


def test_superscripts_in_class_names_are_no_numbers(tmp_path, put_lines):
    put_lines(tmp_path / "names.txt", ["a ¹ first", "b ² second"])
    assert read_names(str(tmp_path / "names.txt"), ["a", "b"]) == {"a": "¹ first", "b": "² second"}
    put_lines(tmp_path / "names.txt", ["a ١ first", "b ٢ second"])
    with pytest.raises(UserError, match="class names start with a number"):
        read_names(str(tmp_path / "names.txt"), ["a", "b"])
