"""The rooms of the house: nothing imports upward, nothing in a circle, and no room names another one's files."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from import_graph import PROGRAMS, ROOMS, ROOT, circle, imports, modules, room, upward

GRAPH = imports(modules())


def test_nothing_imports_upward():
    assert len(GRAPH) > 150 and upward(GRAPH) == []


def test_there_is_no_circle():
    assert circle(GRAPH) == []


def test_the_programs_see_what_is_wrong(tmp_path):
    """Files that break both rules, so that the two tests above can fail."""
    for name, source in {
        "dassl/low.py": "def late():\n    from clip import high\n",
        "clip/high.py": "import clip.other\n",
        "clip/other.py": "from . import high\n",
        "clip/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    files = {name: path for name, path in modules(tmp_path).items() if path.is_file()}
    graph = imports(files)
    assert upward(graph) == ["dassl.low -> clip.high"]
    assert set(circle(graph)) == {"clip.high", "clip.other"}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_no_room_points_into_another_by_path(module):
    """Neither `Path(__file__).parent.parent / "clip"`, nor the path of another room's file as a string."""
    others = set(ROOMS) - {room(module)}
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            assert not (node.right.value in others and "parent" in ast.unparse(node.left)), ast.unparse(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.partition("/")[0] in others:
            assert not (len(node.value) < 200 and (ROOT / node.value).is_file()), node.value


def test_the_list_of_rooms_is_complete():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ROOMS)
    assert {path.stem for path in ROOT.glob("*.py")} == set(PROGRAMS)


def test_importing_all_methods_loads_neither_torchvision_nor_triton():
    """They take two seconds together, at each start of every program; they are imported where they are used."""
    code = (
        "import sys, train; print([name for name in ('torchvision', 'triton', 'tensorboard') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
