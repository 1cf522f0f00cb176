"""How a launch shows what it is doing: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from dassl.engine.history import HISTORY_NAME
from dassl.utils.safe_text import printable
from experiments.launch.estimate import number_of_runs
from experiments.plan.runs import PlannedRun, short_path
from runner.result import read_result


@dataclass
class Tally:
    """The state of the runs of a plan."""

    total: int
    skipped: int = 0
    finished: int = 0
    failures: dict[PlannedRun, str] = field(default_factory=dict)
    """Runs that failed, or could not begin, and why."""
    left: str = ""
    """How long the rest will take, such as "about 12 min left"."""

    @property
    def done(self) -> int:
        return self.skipped + self.finished + len(self.failures)

    def summary(self) -> str:
        left = self.total - self.done
        ended = f"{self.finished} finished now, {self.skipped} before, {len(self.failures)} failed"
        return f"{number_of_runs(self.total)}: {ended}" + (f", {left} left" if left else "")


def outcome(run: PlannedRun) -> str:
    """The accuracy that a finished run found."""
    results = (read_result(run.folder) or {}).get("results") or {}
    return f"accuracy {results['accuracy']:.1f} %" if "accuracy" in results else "finished"


class PlainView:
    """A line for each run that begins, ends or fails."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> PlainView:
        tally = self._tally
        before = f"{number_of_runs(tally.total)}, {tally.skipped} of them finished before"
        self.say(f"{before}; {tally.left}" if tally.left else before)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        print(printable(line), flush=True)

    def began(self, run: PlannedRun, where: str) -> None:
        self.say(f"{self._count()} begin    {run.label} ({where})")

    def ended(self, run: PlannedRun, seconds: float) -> None:
        left = f"; {self._tally.left}" if self._tally.left else ""
        self.say(f"{self._count()} finished {run.label}: {outcome(run)} ({seconds:.0f} s){left}")

    def failed(self, run: PlannedRun, why: str) -> None:
        self.say(f"{self._count()} FAILED   {run.label}: {why}")

    def refresh(self, working: Collection[PlannedRun]) -> None:
        """Called while runs are at work."""

    def _count(self) -> str:
        width = len(str(self._tally.total))
        return f"[{self._tally.done:{width}}/{self._tally.total}]"


class LiveView(PlainView):
    """A bar over all runs, and one over the epochs of each run at work; ended runs scroll by above."""

    def __init__(self, tally: Tally, console: Console) -> None:
        super().__init__(tally)
        name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns = (name, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, expand=True)
        self._overall = self._progress.add_task("all runs", total=tally.total)
        self._bars: dict[PlannedRun, TaskID] = {}

    def __enter__(self) -> LiveView:
        self._progress.start()
        super().__enter__()
        self.refresh(())
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._progress.console.print(escape(printable(line)), highlight=False)

    def began(self, run: PlannedRun, where: str) -> None:
        epochs = run.config()["OPTIM"]["MAX_EPOCH"] if run.trains else 1
        self._bars[run] = self._progress.add_task(escape(f"{where}: {run.short_label}"), total=epochs)

    def ended(self, run: PlannedRun, seconds: float) -> None:
        super().ended(run, seconds)
        self._remove(run)

    def failed(self, run: PlannedRun, why: str) -> None:
        super().failed(run, why)
        self._remove(run)

    def refresh(self, working: Collection[PlannedRun]) -> None:
        failed = f", {len(self._tally.failures)} failed" if self._tally.failures else ""
        left = f", {self._tally.left}" if self._tally.left else ""
        self._progress.update(self._overall, completed=self._tally.done, description=f"all runs{failed}{left}")
        for run in working:
            if run in self._bars and run.trains:
                self._progress.update(self._bars[run], completed=epochs_trained(run))

    def _remove(self, run: PlannedRun) -> None:
        if run in self._bars:
            self._progress.remove_task(self._bars.pop(run))


def epochs_trained(run: PlannedRun) -> int:
    """Epochs that a run has behind it."""
    path = run.folder / HISTORY_NAME
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def make_view(tally: Tally) -> PlainView:
    """The live view where standard output is a terminal."""
    console = Console()
    return LiveView(tally, console) if console.is_terminal else PlainView(tally)


def report_failures(view: PlainView, tally: Tally) -> None:
    """The last lines of a launch."""
    view.say(tally.summary())
    for run, why in tally.failures.items():
        view.say(f"failed: {run.label}: {why} ({short_path(run.folder)})")
