"""No line of the product uses a loader that runs what it finds in a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
NOT_PRODUCT = ("tests", "docs", "scripts")
ROOMS = sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_PRODUCT)
FILES = [*sorted(ROOT.glob("*.py")), *(path for room in ROOMS for path in sorted(room.rglob("*.py")))]
FORBIDDEN = {
    "torch.jit.load", "jit.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "eval", "exec", "shutil.unpack_archive",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "extract"}


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe = (
            name in FORBIDDEN
            or name.rpartition(".")[2] in FORBIDDEN_METHODS
            or (name == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
        )
        if unsafe:
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loader_that_runs_code(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.jit.load(path)", "torch.load(path)", "torch.load(path, weights_only=False)", "yaml.safe_load(file)",
        "np.load(path, allow_pickle=True)", "archive.extractall(folder)", "pickle.loads(data)", "eval(text)",
    ],
)  # fmt: skip
def test_the_check_finds_each(line):
    assert len(list(faults(line))) == 1
