"""All checks that need a GPU, in five minutes.

    python -m tools.gpu_check --json gpu.json

Six parts: the Triton kernels against the plain forms; captured steps against eager ones bit for bit; times, kernels
and memory of a step; a short training; the hours of the paper's table; the tests marked `gpu`. Each runs in its
own process and has a time limit; its figures are written to the JSON file as they come. Weights and images are random;
nothing is downloaded. The exit status is 0 when every part has finished and found nothing wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from dassl.command_line import ArgumentParser
from dassl.utils import errors_in_one_line, write_json
from experiments.launch.job import last_words
from tools.gpu_parts import PARTS, ROOT, check_device

SECONDS = {"kernels": 60, "captured": 75, "steps": 75, "end_to_end": 45, "plan": 60, "tests": 60}
"""How long each part may take."""
TARGETS = {
    "step [ms]": {50: 12.0, 500: 25.0},
    "kernels": 4500,
    "first step [s]": 40.0,
    "first use [s]": 30.0,
    "data share": 0.05,
    "hours": 1.0,
}
"""Upper bounds of a captured ProMetaR step in fp16 on an H100 or H200, of a training's wait for data, of the table."""


def run_part(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Status (done, late or failed), seconds and figures of a part; the figures so far of one that did not finish."""
    output, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, "-m", "tools.gpu_parts", name, "--device", args.device, "--json", str(output)]
    limit, began = args.factor * SECONDS[name], time.monotonic()
    with open(log, "w") as console:
        process = subprocess.Popen(
            [*command, *(["--tiny"] if args.tiny else [])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            status = "late"
        finally:
            with suppress(ProcessLookupError):  # whatever it has started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    if output.is_file():
        result["figures"] = json.loads(output.read_text())
    if status == "late":
        result["reason"] = f"not finished after {limit:g} s"
    if status == "failed":
        result["reason"] = last_words(log.read_text(errors="replace"))
    return result


def faults(parts: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong, apart from speed: unfinished parts, wrong kernels, differing bits, no capture, failed tests."""
    found = [f"{name}: {part['status']}, {part['reason']}" for name, part in parts.items() if part["status"] != "done"]
    for form, figures in (parts.get("kernels", {}).get("figures") or {}).get("forms", {}).items():
        if not figures["equal"]:
            found.append(
                f"kernels: {form} is off by {figures['fused error']:.1e}, plain by {figures['plain error']:.1e}"
            )
    for trainer, figures in (parts.get("captured", {}).get("figures") or {}).items():
        if not figures["bit-equal"] and figures["eager repeats itself"]:
            found.append(f"captured: {trainer} differs from eager by {figures['largest difference']:.1e}")
        found += [f"captured: {trainer}.{name} runs eagerly: {why}" for name, why in figures["runs eagerly"].items()]
    found += [f"tests: {name} failed" for name in (parts.get("tests", {}).get("figures") or {}).get("names", ())]
    return found


def table_of_parts(parts: dict[str, dict[str, Any]]) -> str:
    """The figures and their targets."""
    rows: list[tuple[str, str, str, str]] = []
    for name, part in parts.items():
        rows.append((name, part["status"], f"{part['seconds']:.0f} s", ""))
        rows += [("", *row) for row in _rows(name, part.get("figures"))]
    return tabulate(rows, headers=["part", "figure", "value", "target"], disable_numparse=True)


def _rows(name: str, figures: Any) -> list[tuple[str, str, str]]:
    """Figure, value and target of each line about a part."""
    if figures is None:
        return []
    if name == "captured":
        return [(trainer, f"{_equality(f)}, {f['graphs']} graphs", "") for trainer, f in figures.items()]
    if name == "steps":
        return [
            (
                f"{row['way']}, {row['classes']} classes: {key}",
                _number(value),
                _target(key, row["classes"]) if row["way"] == "captured" else "",
            )
            for row in figures
            for key, value in row.items()
            if key not in ("classes", "way")
        ]
    numbers = {key: figures["total"][key] for key in ("steps", "hours")} if name == "plan" else figures
    found = [(key, _number(value), _target(key)) for key, value in numbers.items() if isinstance(value, (int, float))]
    return found + [(form, _form(f), "") for form, f in figures.get("forms", {}).items()]


def _form(figures: dict[str, Any]) -> str:
    times = f"{_number(figures['plain [us]'])} us plain, {_number(figures['fused [us]'])} us fused"
    return f"{times}, errors {figures['plain error']:.1e} and {figures['fused error']:.1e}"


def _equality(figures: dict[str, Any]) -> str:
    if figures["bit-equal"]:
        return "bit-equal"
    eager = "repeats itself" if figures["eager repeats itself"] else "does not repeat itself"
    return f"differs by {figures['largest difference']:.1e} (eager {eager})"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _target(key: str, classes: int | None = None) -> str:
    target = TARGETS.get(key)
    if isinstance(target, dict):
        target = target.get(classes)
    return "" if target is None else f"<= {target:g}"


def machine(device: str) -> dict[str, Any]:
    """The machine of the figures."""
    about: dict[str, Any] = {"device": device, "torch": torch.__version__, "cores": len(os.sched_getaffinity(0))}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {"gpu": properties.name, "memory [GB]": round(properties.total_memory / 1e9, 1)}
        about["cuda"] = torch.version.cuda
    return about


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    parser = ArgumentParser(
        prog="python -m tools.gpu_check",
        description="All checks that need a GPU, in five minutes. The exit status is 0 if nothing is wrong.",
        examples=("--json gpu.json", "--device cpu --tiny"),
    )
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"], help="where to compute")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, to try the lines")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts")
    parser.add_argument("--factor", type=float, default=1.0, help="multiplies the time limits, for a slower machine")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("gpu_check.json"), help="file for the figures"
    )
    args = parser.parse_args(arguments)
    check_device(args.device)
    report: dict[str, Any] = {"machine": machine(args.device), "tiny": args.tiny, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.parts:
            print(f"{name}: at most {args.factor * SECONDS[name]:g} s", flush=True)
            report["parts"][name] = run_part(name, args, Path(folder))
            report["faults"] = faults(report["parts"])
            write_json(report, args.json)  # after each part: the next one may be lost
    print(table_of_parts(report["parts"]))
    print("\n".join(report["faults"]) or "nothing wrong")
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
