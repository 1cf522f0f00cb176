"""The Triton kernels, run on the CPU by Triton's interpreter, which has to be chosen before they are imported.

Expected values: the plain forms in float64, to the rounding of the rows' precision.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clip import derivatives, kernel_choice
from clip.kernel_choice import choose_kernels
from dassl.utils import UserError

pytest.importorskip("triton")
from clip import fused, fused_rows  # noqa: E402

CHECK = Path(__file__).with_name("fused_kernels.py")


def test_kernels_equal_the_plain_forms():
    """Odd numbers of rows and widths, in three precisions; a small tower with them."""
    root = CHECK.parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(CHECK)], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "all equal"


def test_kernels_compile_for_a_gpu(tmp_path, monkeypatch):
    """Each kernel to machine code of an A100, which needs no GPU: the interpreter takes more than the compiler does."""
    from kernel_launches import recorded_launches

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with recorded_launches() as launches:
        kernel_choice._results(torch.device("cpu"))
    one_of_each = {launch.kernel: launch for launch in launches}
    names = {name for module in (fused, fused_rows) for name in vars(module) if name.endswith("_kernel")}
    assert {kernel.__name__ for kernel in one_of_each} == names
    for launch in one_of_each.values():
        assert launch.compile(80)[:4] == b"\x7fELF"


def test_what_is_left_to_pytorch(monkeypatch):
    """Another device, float64, and whatever is differentiated."""
    monkeypatch.setattr(derivatives, "kernels", fused)
    monkeypatch.setattr(derivatives, "kernels_run_on", "cuda")
    with torch.no_grad():
        assert derivatives.kernels_for(torch.zeros(1)) is None
        monkeypatch.setattr(derivatives, "kernels_run_on", "cpu")
        assert derivatives.kernels_for(torch.zeros(1)) is fused
        assert derivatives.kernels_for(torch.zeros(1, dtype=torch.float64)) is None
    assert derivatives.kernels_for(torch.zeros(1)) is None


def test_choices(capsys, monkeypatch):
    monkeypatch.setattr(derivatives, "kernels", None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="unknown TRAINER.FUSED 'yes': choose one of auto, on, off"):
        choose_kernels("yes", cpu)
    for choice in ("off", "auto"):
        choose_kernels(choice, cpu)
    assert capsys.readouterr().out == ""
    choose_kernels("on", cpu)
    assert "TRAINER.FUSED on needs a GPU" in capsys.readouterr().out
    assert derivatives.kernels is None


def test_kernels_that_do_not_work_are_said_and_left(capsys, monkeypatch):
    """Without the interpreter, Triton cannot run on this device."""
    monkeypatch.setattr(derivatives, "kernels", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "clip.fused", None)  # its import fails
    choose_kernels("auto", torch.device("cpu"))
    assert "the kernels do not work here" in capsys.readouterr().out
    with pytest.raises(UserError, match="set it to off"):
        choose_kernels("on", torch.device("cpu"))
    assert derivatives.kernels is None
