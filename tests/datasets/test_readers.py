"""Each reader on its data set's own annotations, without split file.

Expected names and labels: the rules in CoOp's readers, as recorded by the conformance kit (test_conformance.py); sizes:
50/20/30 and 80/20 with ``round``.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from scipy.io import savemat

from dassl.utils import UserError
from datasets.acquire.check import print_report
from datasets.imagenet import ImageNet, read_wnids
from datasets.layout.sources import Counts
from datasets.ucf101 import read_class_index

SEED = 1


def parts_of(dataset):
    return [[(item.impath, item.label, item.classname) for item in part] for part in (dataset.train_x, dataset.val)]


def sizes(dataset):
    return tuple(len(part or []) for part in (dataset.train_x, dataset.val, dataset.test))


@pytest.mark.parametrize(
    ("name", "folder", "images", "folders", "expected"),
    [
        (
            "Caltech101",
            "caltech-101",
            "101_ObjectCategories",
            ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes", "airplanes", "anchor"],
            ["face", "leopard", "motorbike", "airplane", "anchor"],
        ),
        ("DescribableTextures", "dtd", "images", ["banded", "waffled"], ["banded", "waffled"]),
        ("Food101", "food-101", "images", ["apple_pie", "waffles"], ["apple_pie", "waffles"]),
        (
            "EuroSAT",
            "eurosat",
            "2750",
            ["AnnualCrop", "Highway", "SeaLake"],
            ["Annual Crop Land", "Highway or Road", "Sea or Lake"],
        ),
    ],
)
def test_a_folder_per_class_is_cut_50_20_30(name, folder, images, folders, expected, tmp_path, put_image, build):
    for cls in folders:
        for number in range(13):
            put_image(tmp_path / folder / images / cls / f"image_{number:04d}.jpg")
        (tmp_path / folder / images / cls / ".DS_Store").write_text("x")
    (tmp_path / folder / images / "README.txt").write_text("not a class")

    dataset = build(name, tmp_path, seed=SEED)

    assert dataset.classnames == expected
    # 13 images: round(6.5) = 6 (halves to even), round(2.6) = 3, the rest 4
    assert sizes(dataset) == (6 * len(expected), 3 * len(expected), 4 * len(expected))
    # the first class is drawn first, by one shuffle of its images in ascending order
    kept = [cls for cls in folders if cls not in ("BACKGROUND_Google", "Faces_easy")]
    images_of_first = sorted(f"{kept[0]}/image_{number:04d}.jpg" for number in range(13))
    random.seed(SEED)
    random.shuffle(images_of_first)
    split = json.loads((tmp_path / folder / f"split_zhou_{name}.json").read_text())
    assert [row[0] for row in split["train"][:6]] == images_of_first[:6]
    assert [row[0] for row in split["val"][:3]] == images_of_first[6:9]
    # later runs read the split back
    assert parts_of(build(name, tmp_path, seed=SEED + 1)) == parts_of(dataset)


def trainval_is_cut_80_20(dataset, n_trainval, n_test):
    n_val = round(0.2 * n_trainval)
    return sizes(dataset) == tuple(len(dataset.classnames) * size for size in (n_trainval - n_val, n_val, n_test))


def test_oxford_pets(tmp_path, put_image, put_lines, build):
    trainval, test = [], []
    for label, breed in enumerate(["Abyssinian", "american_bulldog"], start=1):
        for number in range(1, 14):
            put_image(tmp_path / "oxford_pets" / "images" / f"{breed}_{number}.jpg")
            (trainval if number <= 10 else test).append(f"{breed}_{number} {label} 1 {label}")
    put_lines(tmp_path / "oxford_pets" / "annotations" / "trainval.txt", reversed(trainval))
    put_lines(tmp_path / "oxford_pets" / "annotations" / "test.txt", test)

    dataset = build("OxfordPets", tmp_path)

    assert dataset.classnames == ["abyssinian", "american_bulldog"]
    assert trainval_is_cut_80_20(dataset, 10, 3)
    assert dataset.val[0].classname == "american_bulldog"  # classes in order of first appearance


def test_oxford_flowers(tmp_path, put_image, build):
    folder = tmp_path / "oxford_flowers"
    labels = [2, 1, 3] * 10
    for number in range(1, 31):
        put_image(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    (folder / "cat_to_name.json").write_text(json.dumps({"3": "colt's foot", "1": "pink primrose", "2": "sweet pea"}))

    dataset = build("OxfordFlowers", tmp_path)

    assert dataset.classnames == ["pink primrose", "sweet pea", "colt's foot"]
    assert sizes(dataset) == (15, 6, 9)
    assert dataset.train_x[0].classname == "sweet pea"  # the class of the first image
    assert all(type(item.label) is int for item in dataset.train_x)


def test_fgvc_aircraft(tmp_path, put_image, put_lines, build, rows):
    folder = tmp_path / "fgvc_aircraft"
    put_lines(folder / "variants.txt", ["A330-200", "Cessna 172", "F-16A/B"])
    for part, lines in {
        "train": ["0003 F-16A/B", "0001 Cessna 172", "0002 A330-200"],
        "val": ["0004 Cessna 172"],
        "test": ["0005 A330-200"],
    }.items():
        put_lines(folder / f"images_variant_{part}.txt", lines)
        for line in lines:
            put_image(folder / "images" / f"{line[:4]}.jpg")

    dataset = build("FGVCAircraft", tmp_path)

    assert rows(dataset.train_x, folder) == [
        ("images/0003.jpg", 2, "F-16A/B"),
        ("images/0001.jpg", 1, "Cessna 172"),
        ("images/0002.jpg", 0, "A330-200"),
    ]
    assert rows(dataset.val, folder) == [("images/0004.jpg", 1, "Cessna 172")]
    assert not list(folder.glob("split_zhou*"))


def cars_annotations(entries):
    table = np.empty((1, len(entries)), dtype=[("class", object), ("fname", object)])
    for index, (label, name) in enumerate(entries):
        table[0, index] = (np.array([[label]], dtype=np.uint8), name)
    return {"annotations": table}


def test_stanford_cars(tmp_path, put_image, build):
    folder = tmp_path / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    models = np.empty((1, 2), dtype=object)
    models[0, 0], models[0, 1] = "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": models})
    train = [(1 + number % 2, f"{number:05d}.jpg") for number in range(20)]
    test = [(1 + number % 2, f"{number:05d}.jpg") for number in range(6)]
    savemat(folder / "devkit" / "cars_train_annos.mat", cars_annotations(train))
    savemat(folder / "cars_test_annos_withlabels.mat", cars_annotations(test))
    for _, name in train:
        put_image(folder / "cars_train" / name)
    for _, name in test:
        put_image(folder / "cars_test" / name)

    dataset = build("StanfordCars", tmp_path)

    assert dataset.classnames == ["2012 Acura RL Sedan", "2012 Ram C/V Cargo Van Minivan"]
    assert trainval_is_cut_80_20(dataset, 10, 3)
    split = json.loads((folder / "split_zhou_StanfordCars.json").read_text())
    assert {row[0].split("/")[0] for row in split["train"]} == {"cars_train"}
    assert {row[0].split("/")[0] for row in split["test"]} == {"cars_test"}


def test_sun397(tmp_path, put_image, put_lines, build):
    folder = tmp_path / "sun397"
    scenes = ["/a/abbey", "/c/casino/indoor"]
    trainval = [f"{scene}/sun_{number:02d}.jpg" for number in range(10) for scene in scenes]
    test = [f"{scene}/sun_{number:02d}.jpg" for number in range(10, 13) for scene in scenes]
    put_lines(folder / "ClassName.txt", scenes)
    put_lines(folder / "Training_01.txt", trainval)
    put_lines(folder / "Testing_01.txt", test)
    for path in trainval + test:
        put_image(folder / "SUN397" / path[1:])

    dataset = build("SUN397", tmp_path)

    assert dataset.classnames == ["abbey", "indoor casino"]
    assert trainval_is_cut_80_20(dataset, 10, 3)


def test_ucf101(tmp_path, put_image, put_lines, build):
    folder = tmp_path / "ucf101"
    actions = ["ApplyEyeMakeup", "YoYo"]
    videos = {action: [f"{action}/v_{action}_g{n:02d}_c01.avi" for n in range(13)] for action in actions}
    lists = folder / "ucfTrainTestlist"
    put_lines(lists / "classInd.txt", ["1 ApplyEyeMakeup", "2 YoYo"], end="\r\n")
    put_lines(lists / "trainlist01.txt", [f"{v} {i}" for i, a in enumerate(actions, 1) for v in videos[a][:10]], "\r\n")
    put_lines(lists / "testlist01.txt", [v for a in actions for v in videos[a][10:]], "\r\n")
    for action, name in zip(actions, ["Apply_Eye_Makeup", "Yo_Yo"], strict=True):
        for video in videos[action]:
            put_image(folder / "UCF-101-midframes" / name / video.split("/")[1].replace(".avi", ".jpg"))

    dataset = build("UCF101", tmp_path)

    assert dataset.classnames == ["Apply_Eye_Makeup", "Yo_Yo"]
    assert trainval_is_cut_80_20(dataset, 10, 3)


WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n02708093": "analog clock", "n04033901": "quill pen"}


@pytest.fixture
def imagenet(tmp_path, put_image, put_lines):
    """Three of four wnids are present, so labels are positions among the folders, not lines of classnames.txt."""
    folder = tmp_path / "imagenet"
    put_lines(folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in WNIDS.items()])
    for wnid in (wnid for wnid in WNIDS if wnid != "n01443537"):
        for number in range(5):
            put_image(folder / "images" / "train" / wnid / f"{wnid}_{number}.JPEG")
        for number in range(2):
            put_image(folder / "images" / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


def test_imagenet(imagenet, build):
    dataset = build("ImageNet", imagenet, shots=2)
    assert dataset.classnames == ["tench", "analog clock", "quill pen"]
    assert sizes(dataset) == (6, 6, 6)  # val is the test part, not reduced
    assert [item.impath for item in dataset.val] == [item.impath for item in dataset.test]


def test_imagenet_that_is_not_whole_is_mentioned(imagenet, build, capsys):
    build("ImageNet", imagenet)
    assert "1 classes of" in capsys.readouterr().out
    reader = ImageNet.at(str(imagenet / "imagenet"))
    assert not print_report(reader, fast=False, counts=Counts(4, 16, None, 6))
    assert "3 classes instead of 4 (without n01443537), 15 train images" in capsys.readouterr().out


def test_imagenet_without_the_same_folders_in_val(imagenet, build):
    val = imagenet / "imagenet" / "images" / "val"
    (val / "n02708093").rename(imagenet / "aside")
    with pytest.raises(FileNotFoundError, match="1 class folders are missing in .*/val, first n02708093"):
        build("ImageNet", imagenet)


def test_imagenet_with_unsorted_val(imagenet, build, put_image):
    put_image(imagenet / "imagenet" / "images" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match="sort them into one folder per wnid"):
        build("ImageNet", imagenet)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["n01440764 1 tench"], "line 1 is 'n01440764 1 tench'; a class name cannot start with a number"),
        (["n01440764 tench", "n01443537 2: goldfish"], "line 2 is .*cannot start with a number"),
        (["n01443537 goldfish", "n01440764 tench"], "line 2 has n01440764 after n01443537; the wnids must ascend"),
        (["tench n01440764"], "'tench' is not a wnid"),
        (["n01440764 tench, Tinca tinca"], "line 1 is 'n01440764 tench, Tinca tinca'; a class has one name here"),
        (["0 tench"], "'0' is not a wnid"),
    ],
)
def test_a_list_of_classes_in_another_form(tmp_path, put_lines, lines, message):
    put_lines(tmp_path / "classnames.txt", lines)
    with pytest.raises(UserError, match=message):
        read_wnids(str(tmp_path / "classnames.txt"))


def test_two_published_classes_with_one_name_are_a_warning(imagenet, build, put_lines, capsys):
    path = imagenet / "imagenet" / "classnames.txt"
    put_lines(path, [f"{line.split()[0]} crane" for line in path.read_text().splitlines()])
    assert build("ImageNet", imagenet).classnames == ["crane"] * 3
    assert (
        "the same prompt text, so no model can tell them apart: 'crane' and 'crane' (classes 0"
        in capsys.readouterr().out
    )


def test_imagenet_with_classnames_that_do_not_match(imagenet, build, put_lines):
    put_lines(imagenet / "imagenet" / "classnames.txt", ["n01440764 tench"])
    with pytest.raises(ValueError, match="ImageNet: .*n02708093"):
        build("ImageNet", imagenet)


@pytest.mark.parametrize(
    ("name", "folder", "images"),
    [
        ("ImageNetSketch", "imagenet-sketch", "images"),
        ("ImageNetA", "imagenet-adversarial", "imagenet-a"),
        ("ImageNetR", "imagenet-rendition", "imagenet-r"),
    ],
)
def test_targets_have_only_a_test_part(name, folder, images, tmp_path, put_image, put_lines, build):
    put_lines(tmp_path / folder / "classnames.txt", [f"{wnid} {cname}" for wnid, cname in WNIDS.items()])
    for wnid in ("n04033901", "n01443537"):
        for number in range(3):
            put_image(tmp_path / folder / images / wnid / f"{number}.jpg")
    (tmp_path / folder / images / "README.txt").write_text("x")

    dataset = build(name, tmp_path, shots=1, subset="base")  # without effect

    assert dataset.classnames == ["goldfish", "quill pen"]
    assert dataset.train_x is dataset.test
    assert len(dataset.test) == 6
    assert not dataset.val
    assert not (tmp_path / folder / "split_fewshot").exists()


def test_imagenetv2_needs_all_thousand_classes(tmp_path, put_image, put_lines, build):
    folder = tmp_path / "imagenetv2"
    put_lines(folder / "classnames.txt", [f"n{number:08d} class {number}" for number in range(1000)])
    for label in range(999):
        put_image(folder / "imagenetv2-matched-frequency-format-val" / str(label) / "a.jpeg")
    with pytest.raises(FileNotFoundError, match="format-val/999 is missing"):
        build("ImageNetV2", tmp_path)
    put_image(folder / "imagenetv2-matched-frequency-format-val" / "999" / "a.jpeg")
    dataset = build("ImageNetV2", tmp_path)
    assert dataset.classnames[10] == "class 10"  # the folder 10, not the eleventh in alphabetic order
    assert [item.label for item in dataset.test] == list(range(1000))
    put_lines(folder / "classnames.txt", [f"n{number:08d} class {number}" for number in range(999)])
    with pytest.raises(ValueError, match="names 999 classes, not 1,000"):
        build("ImageNetV2", tmp_path)


def test_embedded_targets_read_a_split_file_with_a_test_part_only(tmp_path, put_image, build):
    put_image(tmp_path / "shapes_night" / "images" / "red_ring" / "0.png")
    split = {"train": [], "val": [], "test": [["red_ring/0.png", 0, "red ring"]]}
    (tmp_path / "shapes_night" / "split_zhou_ShapesNight.json").write_text(json.dumps(split))
    dataset = build("ShapesNight", tmp_path, shots=16)
    assert dataset.classnames == ["red ring"]
    assert dataset.train_x is dataset.test


def test_embedded_data_that_is_missing_names_the_generator(tmp_path, build):
    with pytest.raises(FileNotFoundError, match=f"python -m shapes_world.generate --root {tmp_path} Shapes$"):
        build("Shapes", tmp_path)


def test_missing_data_names_folder_and_command(tmp_path, build):
    command = f"python -m datasets.prepare OxfordPets --root {tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/oxford_pets is missing; download it with: {command}$"):
        build("OxfordPets", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere \(--root\)"):
        build("OxfordPets", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("²", "line 'cat_1 ² 1 1' is not an image, a class, a species and a breed"),
        ("9" * 5000, "is not an image, a class, a species and a breed"),
        ("0", "label -1 is below 0; the annotations count classes from 1"),
        ("٢", None),  # Arabic digits are digits
    ],
)
def test_class_numbers_of_pets(tmp_path, put_image, put_lines, build, number, says):
    annotations = tmp_path / "oxford_pets" / "annotations"
    lines = {"cat": number, "dog": "1"}
    for name in lines:
        for image in range(1, 7):
            put_image(tmp_path / "oxford_pets" / "images" / f"{name}_{image}.jpg")
    for file, images in (("trainval.txt", range(1, 6)), ("test.txt", [6])):
        put_lines(annotations / file, [f"{name}_{image} {lines[name]} 1 1" for name in lines for image in images])
    if says is None:
        assert build("OxfordPets", tmp_path).classnames == ["dog", "cat"]
    else:
        with pytest.raises(UserError, match=f"^OxfordPets: .*{says}"):
            build("OxfordPets", tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("² YoYo", "line '² YoYo' is not a number and an action"),
        ("YoYo", "line 'YoYo' is not a number and an action"),
    ],
)
def test_action_numbers_of_ucf101(tmp_path, put_lines, line, says):
    put_lines(tmp_path / "classInd.txt", ["1 ApplyEyeMakeup", line])
    with pytest.raises(UserError, match=says):
        read_class_index(str(tmp_path / "classInd.txt"))
    put_lines(tmp_path / "classInd.txt", ["١ ApplyEyeMakeup", "2 YoYo"])
    assert read_class_index(str(tmp_path / "classInd.txt")) == {"ApplyEyeMakeup": 0, "YoYo": 1}
