"""One list of dependencies: requirements files and the lock file against pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def listed(name: str) -> set[str]:
    """Requirements of a file, without those that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return {str(Requirement(line)) for line in lines if line and not line.startswith("-r")}


def required(*lists: list[str]) -> set[str]:
    return {str(Requirement(each)) for entries in lists for each in entries}


@pytest.mark.parametrize(
    ("file", "lists"),
    [
        ("requirements.txt", [PROJECT["dependencies"], EXTRAS["clip"]]),
        ("requirements-export.txt", [EXTRAS["export"]]),
        ("requirements-test.txt", [EXTRAS["test"]]),
    ],
)
def test_requirements_are_those_of_the_project(file, lists):
    assert listed(file) == required(*lists)


def test_torch_is_bounded_above():
    (torch,) = [Requirement(each) for each in PROJECT["dependencies"] if Requirement(each).name == "torch"]
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains("3.0.0")


def test_the_lock_file_names_one_version_of_everything():
    """The set that the tests ran with; pip install -r requirements.txt -c requirements-lock.txt installs it again."""
    locked = [Requirement(each) for each in listed("requirements-lock.txt")]
    assert len(locked) > 40
    assert all(re.fullmatch(r"==[\w.!+]+", str(each.specifier)) for each in locked)
    versions = {canonical(each.name): each for each in locked}
    assert len(versions) == len(locked)
    for text in required(PROJECT["dependencies"], *EXTRAS.values()):
        wanted = Requirement(text)
        version = next(iter(versions[canonical(wanted.name)].specifier)).version
        assert wanted.specifier.contains(version), text


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
