"""Few-shot draws and base/new classes.

Expected draws are derived here with ``random.sample`` per class in order of first appearance, the rule of Dassl's
``generate_fewshot_dataset`` (recorded in the conformance kit, test_conformance.py).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from dassl.utils import UserError


def split_rows(root):
    return json.loads((root / "eurosat" / "split_zhou_EuroSAT.json").read_text())


def sample(split, shots, seed):
    """{"train": [...], "val": [...]}: rows drawn after seeding with ``seed``."""
    random.seed(seed)
    drawn = {}
    for part, size in (("train", shots), ("val", min(shots, 4))):
        classes = defaultdict(list)
        for row in split[part]:
            classes[row[1]].append(row)
        drawn[part] = []
        for members in classes.values():
            drawn[part] += random.sample(members, size) if len(members) >= size else members
    return drawn


def rows_of(items, root):
    images = root / "eurosat" / "2750"
    return [[Path(item.impath).relative_to(images).as_posix(), item.label, item.classname] for item in items]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 3, 16])
def test_the_draw_is_the_lineages(eurosat, build, shots, seed):
    dataset = build("EuroSAT", eurosat, shots=shots, seed=seed)
    expected = sample(split_rows(eurosat), shots, seed)
    assert rows_of(dataset.train_x, eurosat) == expected["train"]
    assert rows_of(dataset.val, eurosat) == expected["val"]
    assert len(dataset.test) == 10


def test_base_and_new_classes_of_one_draw(eurosat, build):
    everything = build("EuroSAT", eurosat, shots=2)
    base = build("EuroSAT", eurosat, shots=2, subset="base")
    new = build("EuroSAT", eurosat, shots=2, subset="new")
    assert (base.classnames, new.classnames) == (["ant", "bee", "cat"], ["dog", "elk"])  # ceil(5/2) and the rest
    assert {item.label for item in new.train_x} == {0, 1}
    taken = {item.impath for item in base.train_x} | {item.impath for item in new.train_x}
    assert taken == {item.impath for item in everything.train_x}


def test_a_draw_is_kept_per_shots_and_seed_with_relative_paths(eurosat, build):
    first = build("EuroSAT", eurosat, shots=2, seed=1, subset="base")
    path = eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    draw = json.loads(path.read_text())
    assert (draw["dataset"], draw["num_shots"], draw["seed"]) == ("EuroSAT", 2, 1)
    assert len(draw["train"]) == 10  # stored before classes are taken out
    assert all(row[0].startswith("2750/") for row in draw["train"] + draw["val"])
    build("EuroSAT", eurosat, shots=2, seed=2)
    moved = eurosat.rename(eurosat.parent / "moved")  # the file holds wherever the data are
    again = build("EuroSAT", moved, shots=2, seed=1, subset="base")
    assert rows_of(again.train_x, moved) == rows_of(first.train_x, eurosat)
    assert len(list((moved / "eurosat" / "split_fewshot").iterdir())) == 2


def test_a_kept_draw_wins_over_the_generator(eurosat, build):
    build("EuroSAT", eurosat, shots=1, seed=1)
    path = eurosat / "eurosat" / "split_fewshot" / "shot_1-seed_1.json"
    draw = json.loads(path.read_text())
    del draw["digest"]  # as an earlier version wrote it
    draw["train"] = [[f"2750/{row[2]}/train_3.jpg", *row[1:]] for row in reversed(draw["train"])]
    path.write_text(json.dumps(draw))
    dataset = build("EuroSAT", eurosat, shots=1, seed=1)
    assert [item.classname for item in dataset.train_x] == [row[2] for row in draw["train"]]
    assert all(item.impath.endswith("train_3.jpg") for item in dataset.train_x)


@pytest.mark.parametrize("with_digest", [False, True])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda draw: draw | {"train": draw["train"][2:]}, "train has 0 images of class 'dog', not 2"),
        (lambda draw: draw | {"val": draw["val"][1:]}, "val has 1 images of class 'dog', not 2"),
        (lambda draw: draw | {"train": draw["train"][:1] * 2 + draw["train"][2:]}, "train names .* more than once"),
        (lambda draw: draw | {"num_shots": 1}, "num_shots 1, but the run needs 2"),
        (lambda draw: draw | {"seed": 7}, "seed 7, but the run needs 1"),
    ],
)
def test_an_edited_draw_is_found(eurosat, build, edit, message, with_digest):
    build("EuroSAT", eurosat, shots=2, seed=1)
    path = eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    draw = json.loads(path.read_text())
    if not with_digest:
        del draw["digest"]
    path.write_text(json.dumps(edit(draw)))
    with pytest.raises(UserError, match=f"shot_2-seed_1.json.*{message}.*delete that file to draw again"):
        build("EuroSAT", eurosat, shots=2, seed=1)


def test_a_draw_with_other_images_does_not_have_its_digest(eurosat, build):
    build("EuroSAT", eurosat, shots=1, seed=1)
    path = eurosat / "eurosat" / "split_fewshot" / "shot_1-seed_1.json"
    draw = json.loads(path.read_text())
    row = draw["train"][0]
    row[0] = f"2750/dog/train_{(int(row[0][-5]) + 1) % 4}.jpg"
    path.write_text(json.dumps(draw))
    with pytest.raises(UserError, match="shot_1-seed_1.json was edited"):
        build("EuroSAT", eurosat, shots=1, seed=1)


def published_entries(rows, root="./data/eurosat/2750"):
    return [{"impath": f"{root}/{path}", "label": label, "classname": name} for path, label, name in rows]


def published_draw(eurosat):
    split = split_rows(eurosat)
    return {part: [row for row in split[part] if row[0].endswith(f"{part}_1.jpg")] for part in ("train", "val")}


@pytest.mark.parametrize("root", ["./data/eurosat/2750", "/home/them/DATA/euro/2750", "2750", "C:\\data\\2750"])
def test_a_draw_of_cross_modal_adaptation(eurosat, build, tmp_path, root):
    draw = published_draw(eurosat)
    content = {part: {"data": published_entries(rows, root), "indices": [1, 2]} for part, rows in draw.items()}
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    dataset = build("EuroSAT", eurosat, shots=1, seed=5, FEWSHOT_SPLIT=tmp_path / "theirs.json")
    for part, items in (("train", dataset.train_x), ("val", dataset.val)):
        assert rows_of(items, eurosat) == draw[part]
        assert all(Path(item.impath).is_file() for item in items)


def test_a_draw_whose_val_has_the_training_images(eurosat, build, tmp_path, capsys):
    """They would make the best epoch on validation that with the best training accuracy."""
    draw = published_draw(eurosat)
    content = {part: {"data": published_entries(draw["train"])} for part in draw}
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    dataset = build("EuroSAT", eurosat, shots=1, seed=5, FEWSHOT_SPLIT=tmp_path / "theirs.json")
    assert rows_of(dataset.train_x, eurosat) == draw["train"]
    assert "theirs.json names no images of the val part; those are drawn with seed 5" in capsys.readouterr().out
    assert len(dataset.val) == 5 and {item.impath for item in dataset.val}.isdisjoint(
        item.impath for item in dataset.train_x
    )


@pytest.mark.parametrize("with_val", [False, True])
def test_a_draw_of_lines(eurosat, build, tmp_path, capsys, with_val):
    draw = published_draw(eurosat)
    entries = published_entries(draw["train"] + (draw["val"] if with_val else []))
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    dataset = build("EuroSAT", eurosat, shots=1, seed=5, FEWSHOT_SPLIT=tmp_path / "theirs.jsonl")
    assert rows_of(dataset.train_x, eurosat) == draw["train"]
    assert len(dataset.val) == 5
    assert ("names no images of the val part" in capsys.readouterr().out) == (not with_val)
    if with_val:
        assert rows_of(dataset.val, eurosat) == draw["val"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"impath": "./data/eurosat/2750/dog/none.jpg"},
            "line 1: the path .*none.jpg. does not end with that of a train or val image below",
        ),
        (
            {"impath": "./data/eurosat/2750/dog/test_0.jpg"},
            "line 1: the path .*test_0.jpg. does not end with that of a train or val image",
        ),
        ({"label": 0}, "entry 0 of train .*label 0. is not in the train part"),
        (
            {"classname": "ant"},
            "entry 0 of train .*label 3. has the class name 'ant', but the name of this class is 'dog'",
        ),
        (
            {"classname": "hound"},
            "entry 0 of train .*label 3. has the class name 'hound', but the name of this class is 'dog'",
        ),
        ({"label": "dog"}, "line 1: label 'dog' is not a whole number"),
        ({"classname": None}, "line 1: path and class name must be text"),
    ],
)
def test_a_published_draw_that_does_not_fit(eurosat, build, tmp_path, change, message):
    entries = published_entries(published_draw(eurosat)["train"])
    entries[0] |= change
    path = tmp_path / "theirs.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    with pytest.raises(UserError, match=f"theirs.jsonl: {message}"):
        build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=path)
    path.write_text("\n".join(map(json.dumps, entries[1:])))
    with pytest.raises(UserError, match="theirs.jsonl: train has 0 images of class 'dog', not 1"):
        build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=path)
    path.write_text(json.dumps(entries[1]) + "\n{")
    with pytest.raises(UserError, match="theirs.jsonl: line 2 is not valid JSON"):
        build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=path)


def test_a_line_belongs_to_train_where_the_split_has_its_image_in_both_parts(eurosat, build, tmp_path):
    """Such a split is used with a note."""
    split = split_rows(eurosat)
    (eurosat / "eurosat" / "split_zhou_EuroSAT.json").write_text(
        json.dumps(split | {"val": split["val"] + published_draw(eurosat)["train"]})
    )
    draw = published_draw(eurosat)["train"]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in published_entries(draw)))
    dataset = build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=tmp_path / "theirs.jsonl")
    assert rows_of(dataset.train_x, eurosat) == draw
    assert len(dataset.val) == 5


@pytest.mark.parametrize("form", ["lines", "cross_modal", "own"])
def test_a_draw_with_swapped_class_names_is_refused(eurosat, build, tmp_path, form):
    """Paths and labels are right: only the names tell that the draw is of another class list."""
    swapped = {"dog": "elk", "elk": "dog"}
    draw = {
        part: [[path, label, swapped.get(name, name)] for path, label, name in rows]
        for part, rows in published_draw(eurosat).items()
    }
    path = tmp_path / "theirs.json"
    if form == "own":
        below = {part: [[f"2750/{row[0]}", *row[1:]] for row in rows] for part, rows in draw.items()}
        path.write_text(json.dumps({"dataset": "EuroSAT", "num_shots": 1, "seed": 1} | below))
    elif form == "lines":
        path.write_text("\n".join(json.dumps(entry) for rows in draw.values() for entry in published_entries(rows)))
    else:
        path.write_text(json.dumps({part: {"data": published_entries(rows)} for part, rows in draw.items()}))
    with pytest.raises(
        UserError, match="theirs.json: entry 0 of train .*'elk', but the name of this class is 'dog'"
    ) as error:
        build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=path)
    assert "\n" not in str(error.value)
    path.write_text(path.read_text().replace('"dog"', '"?"').replace('"elk"', '"DOG"').replace('"?"', '"Elk"'))
    assert len(build("EuroSAT", eurosat, shots=1, FEWSHOT_SPLIT=path).train_x) == 5  # spelled otherwise: one prompt


def test_a_kept_draw_has_the_names_of_the_class_list(eurosat, build):
    build("EuroSAT", eurosat, shots=1)
    split = eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    split.write_text(split.read_text().replace('"dog"', '"hound"'))
    with pytest.raises(
        UserError, match="shot_1-seed_1.json: .*'dog', but the name of this class is 'hound'; delete that file"
    ):
        build("EuroSAT", eurosat, shots=1)


def test_a_draw_file_can_be_given(eurosat, build, tmp_path):
    other = build("EuroSAT", eurosat, shots=2, seed=3)
    published = tmp_path / "published.json"
    (eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_3.json").rename(published)
    dataset = build("EuroSAT", eurosat, shots=2, seed=1, FEWSHOT_SPLIT=published)
    assert [item.impath for item in dataset.train_x] == [item.impath for item in other.train_x]
    assert not list((eurosat / "eurosat" / "split_fewshot").iterdir())


def test_a_draw_file_that_does_not_fit_is_refused(eurosat, build, tmp_path):
    build("EuroSAT", eurosat, shots=2)
    kept = eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    draw = json.loads(kept.read_text())
    published = tmp_path / "published.json"

    def refused(change, message, shots=2):
        published.write_text(json.dumps(draw | change))
        with pytest.raises((UserError, ValueError), match=message):
            build("EuroSAT", eurosat, shots=shots, FEWSHOT_SPLIT=published)

    refused({}, "num_shots 2, but the run needs 4", shots=4)
    refused({}, "needs DATASET.NUM_SHOTS of at least 1", shots=-1)
    refused({"dataset": "Food101"}, "dataset 'Food101', but the run needs 'EuroSAT'")
    refused({"train": [["2750/ant/test_0.jpg", 0, "ant"]]}, "entry 0 of train .* is not in the train part")
    refused({"train": [["2750/ant/train_0.jpg", 1, "ant"]]}, "entry 0 of train .* is not in the train part")
    refused({"val": None}, "has no list 'val'")
    with pytest.raises(FileNotFoundError, match="none.json is missing; set DATASET.FEWSHOT_SPLIT"):
        build("EuroSAT", eurosat, shots=2, FEWSHOT_SPLIT=tmp_path / "none.json")
    kept.write_text("not JSON")
    with pytest.raises(ValueError, match="shot_2-seed_1.json is not valid JSON: .*; delete that file to draw again"):
        build("EuroSAT", eurosat, shots=2)


def test_an_unknown_subset_is_refused_before_anything_is_read(eurosat, build):
    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES is 'half'; it can be all, base, new"):
        build("EuroSAT", eurosat, subset="half", shots=2)
    assert not (eurosat / "eurosat" / "split_fewshot").exists()


def start_at_once(barrier, queue, build, root, seed):
    barrier.wait()
    dataset = build("EuroSAT", root, shots=2, seed=seed)
    queue.put([item.impath for item in dataset.train_x + dataset.test])


def test_runs_that_start_at_once_use_the_same_split_and_draw(tmp_path, build, put_image):
    for cls in ("Forest", "River"):
        for number in range(13):
            put_image(tmp_path / "eurosat" / "2750" / cls / f"{cls}_{number}.jpg")
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    seeds = [1, 1, 2, 2]
    processes = [context.Process(target=start_at_once, args=(barrier, queue, build, tmp_path, seed)) for seed in seeds]
    for process in processes:
        process.start()
    results = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert results[0] == results[1] and results[2] == results[3]  # runs with the same seed agree
    assert len({tuple(result[-8:]) for result in results}) == 1  # all runs have the same test images
    names = sorted(path.name for path in (tmp_path / "eurosat").rglob("*") if path.is_file() and path.suffix != ".jpg")
    assert names == ["shot_2-seed_1.json", "shot_2-seed_2.json", "split_zhou_EuroSAT.json"]  # nothing left over


def as_plain_user(queue, build, root, output):
    if os.geteuid() == 0:
        os.setuid(65534)  # the superuser may write anywhere
    try:
        dataset = build("EuroSAT", root, shots=2, OUTPUT_DIR=output)
        queue.put([item.impath for item in dataset.train_x])
    except UserError as error:
        queue.put(str(error))


@pytest.fixture
def read_only_root(eurosat):
    """A copy outside of pytest's private folders, which another user may read but nobody may write."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        root = Path(shutil.copytree(eurosat, Path(top) / "data"))
        (Path(top) / "output").mkdir()
        (Path(top) / "output").chmod(0o777)
        (root / "eurosat").chmod(0o555)
        root.chmod(0o555)
        yield root
        root.chmod(0o755)
        (root / "eurosat").chmod(0o755)


def test_read_only_data_keep_their_draws_in_the_output_folder(read_only_root, build):
    root, output = read_only_root, read_only_root.parent / "output"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def run(output_dir):
        process = context.Process(target=as_plain_user, args=(queue, build, root, output_dir))
        process.start()
        result = queue.get(timeout=60)
        process.join()
        return result

    drawn = run(output)
    expected = [row[0] for row in sample(split_rows(root), 2, 1)["train"]]
    assert [Path(path).relative_to(root / "eurosat" / "2750").as_posix() for path in drawn] == expected
    kept = output / "datasets" / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    assert len(json.loads(kept.read_text())["train"]) == 10
    assert run(output) == drawn
    assert "set OUTPUT_DIR to a writable folder" in run(root / "output")
