"""Provenance of a result: versions, commit, digest of the few-shot draw, memory."""

from __future__ import annotations

import hashlib
import platform
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dassl.engine.run_record import listed_images
from dassl.utils import count_num_param

ROOT = Path(__file__).resolve().parent.parent


@cache
def versions() -> dict[str, str]:
    """Versions of Python, PyTorch, torchvision and the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "project": project,
    }


FOUND_BY_THEMSELVES = ("trainers/*.py", "datasets/*.py")
"""Modules that are imported because they are there."""


@cache
def git_state() -> dict[str, Any]:
    """`git_commit` of the project (None outside a repository), and whether the code is another one (`git_dirty`).

    It is if a tracked file was changed, or if git does not know a file that is imported by itself: a method or a reader
    of one's own.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit or _git("rev-parse", "--show-toplevel") != str(ROOT):
        return {"git_commit": None, "git_dirty": False}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    added = _git("ls-files", "--others", "--exclude-standard", "--", *FOUND_BY_THEMSELVES)
    return {"git_commit": commit, "git_dirty": bool(changed or added)}


def commit_name() -> str | None:
    """The commit of `git_state`, with a + if the code is another one; None outside a repository."""
    state = git_state()
    return None if state["git_commit"] is None else state["git_commit"] + "+" * state["git_dirty"]


def _git(*arguments: str) -> str:
    """The output of git; empty without git or a repository."""
    try:
        command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def draw_digest(items: Iterable[Any], root: str) -> str:
    """SHA-256 of the training items in their order: label and path relative to `root`, one line each.

    Args:
        items: with `label` and `impath`.
        root: folder of the data sets; a path outside of it is used as it is.
    """
    digest = hashlib.sha256()
    for label, listed, _ in listed_images(items, root):
        digest.update(f"{label} {listed}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def peak_memory() -> int:
    """Largest memory of this process in bytes: PyTorch's on the GPU if one was used, else resident memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # kilobytes on Linux


def learned_values(trainer: Any) -> int:
    """Numbers that training learns and prediction needs; 0 for zero-shot CLIP.

    What a method needs in training alone, such as ProMetaR's modulator, is registered under its own name and does
    not count. Of another project's trainer everything that is registered counts.
    """
    own = getattr(trainer, "registered_name", None)
    registered: dict[str, Any] = trainer._models
    models = [registered[own]] if own in registered else registered.values()
    return count_num_param([p for model in models for p in model.parameters() if p.requires_grad])
