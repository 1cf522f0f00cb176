"""docs/reference.md is what the code says, and what the code does not say is refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dassl.utils import UserError
from runner.config import default_cfg
from runner.provenance import ROOT
from tools.reference import files, flags, keys
from tools.reference.comments import comments_of_keys


def test_the_page_is_what_the_code_says():
    """In a process of its own, in which no other test has registered a trainer."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run `python -m tools.reference` and commit docs/reference.md\n{done.stderr}"


def test_comments_are_found_beside_keys_in_every_form(tmp_path):
    source = tmp_path / "keys.py"
    source.write_text("""\
_LOADER = {
    "SIZE": 32,  # images
}
_TREE: dict = {
    "A": 1,  # first
    # of a line
    # of its own
    "B": {"C": 2},
    "X": _LOADER,  # the loader
    "Y": {"SAME": True, **_LOADER},
    "SILENT": 0,
    "D": (
        1,
    ),  # behind the end
}
def add_config(cls, cfg):
    cfg.E = 3  # assigned
    cfg.F.G = Node(dict(
        H=4,  # in a call
        I="#",
    ))
    cfg.F[cls.node] = Node(dict(J=5))  # computed
    other.K = 6  # elsewhere
""")
    assert comments_of_keys(source) == {
        "A": "first",
        "B": "of a line of its own",
        "B.C": "of a line of its own",
        "X": "the loader",
        "X.SIZE": "images",
        "Y.SIZE": "images",
        "D": "behind the end",
        "E": "assigned",
        "F.G.H": "in a call",
        "F.*": "computed",
        "F.*.J": "computed",
    }


def test_a_key_without_a_description_is_refused(monkeypatch):
    def with_new_key():
        cfg = default_cfg()
        cfg.TEST.UNEXPLAINED = 1
        return cfg

    monkeypatch.setattr(keys, "default_cfg", with_new_key)
    with pytest.raises(UserError, match="config keys without a description: TEST.UNEXPLAINED; write a comment"):
        keys.key_groups()


PROGRAM = """
from dassl.command_line import ArgumentParser
parser = ArgumentParser(description="Tries something.\\n\\nMore about it.")
commands = parser.add_subparsers()
work = commands.add_parser("work", description="Works.")
work.add_argument("--number", type=int, default=3, HELP)
work.add_argument("--kind", choices=("a", "b"), help="kind of 100%% work")
if __name__ == "__main__":
    parser.parse_args()
    raise AssertionError("the program went on")
"""


def test_flags_are_those_of_the_parsers(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("HELP", 'help="how often"'))
    monkeypatch.setattr(flags, "_commands", lambda: iter([[str(program)]]))
    expected = [
        flags.Flag("--number", "how often (default: 3)"),
        flags.Flag("--kind", "kind of 100% work (one of a, b)"),
    ]
    assert flags.programs() == [flags.Program(f"python {program} work", "Works.", expected)]
    program.write_text(PROGRAM.replace(", HELP", ""))
    with pytest.raises(UserError, match=r"flags without a description: .*program.py work --number; give"):
        flags.programs()


def test_a_program_without_a_parser_is_listed_and_a_failing_one_refused(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    monkeypatch.setattr(flags, "_commands", lambda: iter([[str(program)]]))
    program.write_text('"""Starts\nothers.\n\nMore."""\nprint("usage")\n')
    assert flags.programs() == [flags.Program(f"python {program}", "Starts others.", [])]
    program.write_text('raise SystemExit("error: no GPU")\n')
    with pytest.raises(UserError, match="program.py --help ended with 'error: no GPU' before it had a parser"):
        flags.programs()


def test_a_file_without_a_description_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "PLACES", {"here": ("package",)})
    module = tmp_path / "package" / "module.py"
    module.parent.mkdir()
    module.write_text('OUT_NAME = "out.txt"\n"""What came\nout."""\n_OWN_NAME = "x"\nOTHER_NAME = make()\n')
    assert files.file_groups() == {"here": [files.File("out.txt", "What came out.")]}
    module.write_text('OUT_NAME = "out.txt"\nBAD_NAME = "bad.txt"\nimport os\nA, C_NAME = "a", "c.txt"\n"""Two."""\n')
    with pytest.raises(UserError, match="without a description: out.txt, bad.txt, c.txt; write a docstring"):
        files.file_groups()


def test_programs_are_found():
    commands = {" ".join(words) for words in flags._commands()}
    expected = {"train.py", "predict.py", "export.py", "parse_test_res.py", "-m experiments", "-m datasets.check"}
    assert commands >= expected | {"-m datasets.prepare", "-m shapes_world.generate"}
    assert all(Path(ROOT / words).is_file() for words in commands if words.endswith(".py"))
