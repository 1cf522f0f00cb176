"""A stand-in for train.py that takes milliseconds: it writes the result that a test has laid out for it.

What it does is told by `plan.json` in the output folder: seconds to sleep, an exit status with last words, the config
that the result records. Without that file it ends with an error.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.plan.runs import PlannedRun
from runner.result import write_result

PROGRAM = """
import json, os, sys, time
from datetime import datetime, timezone

folder = sys.argv[sys.argv.index("--output-dir") + 1]
plan = json.load(open(os.path.join(folder, "plan.json")))
with open(os.path.join(folder, "started.txt"), "a") as file:
    file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {os.environ.get('OMP_NUM_THREADS', '')}\\n")
time.sleep(plan["seconds"])
if plan["status"]:
    print("something before\\nerror: " + plan["says"] + "\\nsomething after")
    sys.exit(plan["status"])
result = {"schema": 1, "finished": True, "date": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
          "results": {"accuracy": 50.0}, "full_config": plan["config"], "test_seconds": plan["seconds"]}
result["date"] = result["date"].replace("+00:00", "Z")
part = os.path.join(folder, "result.part")
json.dump(result, open(part, "w"))
os.replace(part, os.path.join(folder, "result.json"))
"""


def install(folder: Path) -> Path:
    """Write the program as `folder`/train.py; returns the folder, to stand in for the repository's."""
    (folder / "train.py").write_text(PROGRAM)
    return folder


def lay_out(run: PlannedRun, seconds: float = 0.0, status: int = 0, says: str = "", config: dict | None = None) -> None:
    """Say what the stand-in is to do in the place of `run`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    plan = {"seconds": seconds, "status": status, "says": says, "config": config or run.config()}
    (run.folder / "plan.json").write_text(json.dumps(plan))


def starts(run: PlannedRun) -> list[list[str]]:
    """Process id, GPU and threads of each start on that run."""
    path = run.folder / "started.txt"
    return [line.split(" ") for line in path.read_text().splitlines()] if path.is_file() else []


def finish(run: PlannedRun, accuracy: float = 50.0, **changes: object) -> None:
    """A finished run as its result.json tells it."""
    write_result(run.folder, {"results": {"accuracy": accuracy}, "full_config": run.config()} | changes)
