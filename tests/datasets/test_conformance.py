"""The conformance kit of the project, which compares with recorded results of the original code; about two minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KIT = REPOSITORY.parent / "shared" / "datasets" / "check_datasets.py"


@pytest.mark.skipif(not KIT.is_file(), reason=f"the conformance kit {KIT} is not there")
def test_conformance_kit():
    command = [sys.executable, str(KIT), "--jobs", "2", "--level", "core"]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("PASS") for line in lines) >= 10, done.stdout
