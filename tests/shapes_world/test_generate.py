"""Writing the data sets: layout, determinism, completeness, errors. Small stand-ins keep the suites' own code path."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from dassl.utils import UserError
from shapes_world import generate as generate_module
from shapes_world.generate import generate, is_complete, main
from shapes_world.render import IMAGE_SIZE
from shapes_world.suites import SUITES


@pytest.fixture
def small_suites(monkeypatch):
    """Each suite with its first three classes, and at most 2, 1 and 2 pictures a class."""
    for name, suite in list(SUITES.items()):
        counts = tuple(min(count, limit) for count, limit in zip(suite.images_per_class, (2, 1, 2), strict=True))
        monkeypatch.setitem(
            SUITES, name, dataclasses.replace(suite, subjects=suite.subjects[:3], images_per_class=counts)
        )
    return SUITES


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout_and_split_files(tmp_path, small_suites):
    generate(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(suite.folder for suite in small_suites.values())
    for suite in small_suites.values():
        folder = tmp_path / suite.folder
        splits = json.loads((folder / f"split_zhou_{suite.name}.json").read_text())
        assert list(splits) == ["train", "val", "test"]
        listed = [relative for items in splits.values() for relative, _, _ in items]
        on_disk = [str(path.relative_to(folder / "images")) for path in (folder / "images").rglob("*.png")]
        assert sorted(listed) == sorted(on_disk)
        for split, items in splits.items():
            assert len(items) == 3 * suite.count(split)
            for relative, label, name in items:
                assert name == suite.class_names[label]
                assert relative.split("/")[0] == name.replace(" ", "_")
    with Image.open(folder / "images" / listed[0]) as image:
        assert image.size == (IMAGE_SIZE, IMAGE_SIZE) and image.mode == "RGB"


def test_two_runs_write_the_same_bytes(tmp_path, small_suites):
    generate(tmp_path / "a")
    generate(tmp_path / "b")
    first, second = read_tree(tmp_path / "a"), read_tree(tmp_path / "b")
    assert len(first) == 5 + 2 * 3 * (2 + 1 + 2) + 3 * 3 * 2  # split files, Shapes and Glyphs, the variants
    assert first == second


def test_second_call_finds_the_data_and_says_so(tmp_path, small_suites, capsys):
    generate(tmp_path, ["Shapes"])
    assert "wrote 15 images of 3 classes" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    generate(tmp_path, ["Shapes"])
    assert f"Shapes: already in {tmp_path / 'shapes'}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, small_suites, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate_module.json, "dumps", interrupted)  # after the images, before the split file
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, ["Shapes"])
    assert list(tmp_path.iterdir()) == []
    assert not is_complete(tmp_path, "Shapes")


def test_a_folder_of_something_else_is_left_alone(tmp_path, small_suites):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="has no split_zhou_Shapes.json"):
        generate(tmp_path, ["Shapes"])
    assert read_tree(tmp_path) == {"shapes/mine.txt": b"precious"}


@pytest.mark.parametrize(
    ("root", "names", "message"),
    [
        ("", ["Triangles"], "unknown generated data set 'Triangles': choose from Shapes, Glyphs"),
        ("file/below", ["Shapes"], "cannot write Shapes into"),
    ],
)
def test_bad_input_is_named(tmp_path, small_suites, root, names, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"^{message}"):
        main(["--root", str(tmp_path / root), *names])
