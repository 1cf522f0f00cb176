"""Shared by all tests: helper modules by their plain names, one thread, an empty home folder, and the devices."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
torch.set_num_threads(1)  # tensors too small to divide

_home = tempfile.TemporaryDirectory(prefix="home-")  # caches in ~/.cache neither help nor outlive the tests
os.environ["HOME"] = _home.name
os.fsync = lambda handle: None  # nothing that a test writes has to survive a power failure; a disk takes milliseconds

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request):
    """The CPU, and a GPU where there is one: the same lines test both. float32 is float32 proper, without TF32."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield torch.device(request.param)
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value
