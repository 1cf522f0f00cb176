"""Shared by all tests: helper modules by their plain names, one thread, and a home folder that starts empty."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
torch.set_num_threads(1)  # tensors too small to divide

_home = tempfile.TemporaryDirectory(prefix="home-")  # caches in ~/.cache neither help nor outlive the tests
os.environ["HOME"] = _home.name
