"""The check for a GPU runs all its parts on a CPU; late and failing parts cost the others nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest
import torch

from dassl.utils import UserError
from tools import gpu_check, gpu_parts
from tools.gpu_check import run_part

STAND_IN = """
import json, os, subprocess, sys, time
part, output = sys.argv[1], sys.argv[sys.argv.index("--json") + 1]
json.dump({"so far": 1.0}, open(output, "w"))
if part == "end_to_end":
    child = subprocess.Popen(["sleep", "3600"])
    open("child.txt", "w").write(str(child.pid))
    time.sleep(3600)
if part == "plan":
    sys.exit("error: no memory left")
"""


REAL_PROCESSES = {"kernels", "steps"}
"""Parts of the next test that get a fresh process each, as all do in use; Triton's interpreter needs one."""


def forked_part(name, args, folder):
    """As `run_part`, without the seconds that a fresh process takes for its imports."""
    if name in REAL_PROCESSES:
        return run_part(name, args, folder)
    output = folder / f"{name}.json"
    words = [name, "--device", args.device, "--tiny", "--json", str(output)]
    process = multiprocessing.get_context("fork").Process(target=gpu_parts.main, args=(words,))
    process.start()
    process.join()
    status = "failed" if process.exitcode else "done"
    return {"status": status, "reason": "see above", "seconds": 0.0, "figures": json.loads(output.read_text())}


def test_every_part_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "run_part", forked_part)
    path = tmp_path / "gpu.json"
    assert gpu_check.main(["--device", "cpu", "--tiny", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["faults"] == [] and report["tiny"] and report["machine"]["device"] == "cpu"
    parts = {name: part["figures"] for name, part in report["parts"].items()}
    assert list(parts) == list(gpu_parts.PARTS) == list(gpu_check.SECONDS)
    assert all(form["equal"] and form["fused [us]"] > 0 for form in parts["kernels"]["forms"].values())
    assert {"layer norm", "QuickGELU, first derivative", "text rows from heads"} <= set(parts["kernels"]["forms"])
    assert {trainer: figures["bit-equal"] for trainer, figures in parts["captured"].items()} == {
        "CoOp": True,
        "ProMetaR": True,
    }
    assert parts["captured"]["ProMetaR"]["graphs"] == 4  # base step, two tasks, test batch
    assert [(row["way"], row["classes"]) for row in parts["steps"]] == [("captured", 5), ("eager", 5)]
    assert all(row["step [ms]"] > 0 and row["operations"] > 1000 for row in parts["steps"])
    assert 0 <= parts["end_to_end"]["data share"] <= 1 and parts["end_to_end"]["step [s]"] > 0
    assert parts["plan"]["total"]["steps"] == 3 * 10 * 16 * 5 // 4
    assert parts["tests"]["passed"] >= 1 and parts["tests"]["failed"] == 0
    printed = capsys.readouterr().out
    assert "bit-equal, 4 graphs" in printed and printed.endswith("nothing wrong\n")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Parts that take milliseconds: one is late and has started a process, one fails."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()  # a folder without it stands behind the project's own package
    (tmp_path / "tools" / "gpu_parts.py").write_text(STAND_IN)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setitem(gpu_check.SECONDS, "end_to_end", 1)
    monkeypatch.setattr(gpu_check, "table_of_parts", lambda parts: "")
    return tmp_path


def test_late_and_failing_parts(stand_in, capsys):
    path = stand_in / "gpu.json"
    began = time.monotonic()
    names = ["end_to_end", "plan", "steps"]
    assert gpu_check.main(["--device", "cpu", "--json", str(path), "--parts", *names]) == 1
    assert time.monotonic() - began < 600  # not the hour that the late part would take
    report = json.loads(path.read_text())
    assert {name: part["status"] for name, part in report["parts"].items()} == {
        "end_to_end": "late",
        "plan": "failed",
        "steps": "done",
    }
    assert all(part["figures"] == {"so far": 1.0} for part in report["parts"].values())
    assert report["faults"] == [
        "end_to_end: late, not finished after 1 s",
        "plan: failed, error: no memory left",
    ]
    child = int((stand_in / "child.txt").read_text())
    with open(f"/proc/{child}/stat") if os.path.exists(f"/proc/{child}") else open(os.devnull) as status:
        assert status.read().split(" ")[2:3] in ([], ["Z"])  # gone


def test_the_report_is_there_before_the_next_part(stand_in, monkeypatch):
    path, seen = stand_in / "gpu.json", []
    run = gpu_check.run_part

    def watched(name, *arguments):
        seen.append(sorted(json.loads(path.read_text())["parts"]) if path.exists() else [])
        return run(name, *arguments)

    monkeypatch.setattr(gpu_check, "run_part", watched)
    gpu_check.main(["--device", "cpu", "--json", str(path), "--parts", "steps", "tests"])
    assert seen == [[], ["steps"]]


def test_what_is_wrong_is_said():
    differs = {"bit-equal": False, "largest difference": 2e-7, "graphs": 1, "eager repeats itself": True}
    random = differs | {"eager repeats itself": False, "runs eagerly": {}}
    figures = {"IVLP": differs | {"runs eagerly": {"base_step": "item"}}, "VPT": random}
    form = {"equal": False, "plain error": 1e-7, "fused error": 2e-3, "plain [us]": 12.0, "fused [us]": 3.0}
    kernels = {"first use [s]": 9.0, "forms": {"layer norm": form, "QuickGELU": form | {"equal": True}}}
    parts = {
        "kernels": {"status": "done", "seconds": 1, "figures": kernels},
        "captured": {"status": "done", "seconds": 1, "figures": figures},
        "tests": {"status": "done", "figures": {"names": ["tests.x::test_y"]}},
    }
    assert gpu_check.faults(parts) == [
        "kernels: layer norm is off by 2.0e-03, plain by 1.0e-07",
        "captured: IVLP differs from eager by 2.0e-07",
        "captured: IVLP.base_step runs eagerly: item",
        "tests: tests.x::test_y failed",
    ]
    shown = gpu_check.table_of_parts({name: parts[name] for name in ("kernels", "captured")})
    assert "12 us plain, 3 us fused, errors 1.0e-07 and 2.0e-03" in shown and "<= 30" in shown
    assert "differs by 2.0e-07 (eager repeats itself), 1 graphs" in shown
    assert "differs by 2.0e-07 (eager does not repeat itself), 1 graphs" in shown


def test_the_log_of_a_training():
    line = "epoch [{}/3] batch [20/20] time 0.010 ({}) data 0.001 ({}) loss 1.0 (1.0) lr 1.0e-03 eta 0:00:00"
    log = "\n".join([line.format(1, 0.9, 0.5), line.format(3, 0.02, 0.005), "Finish training"])
    assert gpu_parts.read_log(log) == {"step [s]": 0.02, "waiting for data [s]": 0.005, "data share": 0.25}
    with pytest.raises(UserError, match="no line of progress"):
        gpu_parts.read_log("Finish training")


def test_the_report_of_pytest(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/><testcase classname="a" name="two"><failure/>'
        '</testcase><testcase classname="b" name="three"><error/></testcase><testcase name="four"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    assert gpu_parts.read_junit(path) == {"passed": 1, "failed": 2, "skipped": 1, "names": ["a::two", "b::three"]}


@pytest.mark.parametrize("program", [gpu_check.main, lambda _: gpu_parts.main(["steps", "--output", "x.json"])])
def test_without_a_gpu(program, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="PyTorch sees no GPU: --device cpu --tiny tries the same lines on a CPU"):
        program([])
