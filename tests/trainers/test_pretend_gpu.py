"""`on_pretend_gpu.py` in a process of its own: where a device beside the CPU is known, autograd starts its threads.

Forked processes, which other tests need, could not use autograd then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).with_name("on_pretend_gpu.py")


def test_every_method_on_a_pretended_gpu():
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--durations=0", str(TESTS)]
    done = subprocess.run(command, cwd=TESTS.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
