"""Where a run's curves, settings and results go besides its own files: TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import leaves, plain
from dassl.engine import TrainerBase
from dassl.utils import BadValueError, UserError, one_line

PROJECT = "prompt-learning"
"""Name of the project (W&B) or experiment (MLflow), unless their own variables say otherwise."""

LoggedSettings = dict[str, bool | int | float | str]


def check_logger(name: str) -> None:
    """Check that the package is installed that a choice of --logger is named after.

    Raises:
        BadValueError: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise BadValueError(f"--logger {name} needs a package that is not installed: pip install {name}")


def changed_settings(cfg: CfgNode, defaults: CfgNode) -> LoggedSettings:
    """The configuration's values that differ from the defaults, by their dotted keys."""
    usual = dict(leaves(plain(defaults)))
    changed = {key: value for key, value in leaves(plain(cfg)) if key not in usual or usual[key] != value}
    return {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in sorted(changed.items())
    }


def start_tracking(name: str, trainer: TrainerBase, cfg: CfgNode, settings: LoggedSettings) -> Tracker:
    """Open the tracker of a run and give it every value that the trainer writes.

    Args:
        name: of the package, a choice of --logger.

    Raises:
        UserError: the logger's package cannot start, for example without a login or a server.
    """
    if name == "tensorboard":  # the trainer's own writer has the curves
        return TensorBoard(Path(cfg.OUTPUT_DIR), settings)
    kind = WeightsAndBiases if name == "wandb" else MLflow
    try:
        tracker = kind(Path(cfg.OUTPUT_DIR), settings)
    except Exception as error:  # each package has its own
        raise UserError(f"--logger {name} cannot start: {one_line(error, 400)}") from error
    write = trainer.write_scalar

    def write_to_both(tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        write(tag, scalar_value, global_step)
        tracker.scalar(tag, float(scalar_value), global_step)

    trainer.write_scalar = write_to_both
    return tracker


class TensorBoard:
    """Adds hyper-parameters and the table of results to the event files of the trainer."""

    def __init__(self, output: Path, settings: LoggedSettings) -> None:
        self._folder, self._settings = output / "tensorboard", settings

    def finish(self, results: Mapping[str, float]) -> None:
        """Write the event file, and say how to look at all of them; nothing if nothing was trained."""
        if not self._folder.is_dir():
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import
        from torch.utils.tensorboard.summary import hparams

        metrics = {f"final/{name}": value for name, value in results.items()}
        rows = "".join(f"| {name} | {value:.2f} |\n" for name, value in results.items())
        with SummaryWriter(log_dir=str(self._folder)) as writer:
            for summary in hparams(dict(self._settings), metrics):
                writer._get_file_writer().add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value)
            writer.add_text("results", f"| result | value |\n| --- | --- |\n{rows}")
        print(f"Curves and results: tensorboard --logdir {shlex.quote(str(self._folder))}")


class WeightsAndBiases:
    """A W&B run; a resumed training continues it."""

    def __init__(self, output: Path, settings: LoggedSettings) -> None:
        wandb = importlib.import_module("wandb")
        folder = str(output.absolute())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=output.name,
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            resume="allow",
            dir=folder,
            config=settings,
        )
        self._groups: set[str] = set()

    def scalar(self, tag: str, value: float, step: int | None) -> None:
        """Log a value. W&B's own step only grows, but train/ counts steps and test/ epochs: each group has its axis."""
        group = tag.partition("/")[0]
        if group not in self._groups:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            self._groups.add(group)
        self._run.log({tag: value} if step is None else {tag: value, f"{group}/step": step})

    def finish(self, results: Mapping[str, float]) -> None:
        """Add the results to the summary and close the run."""
        self._run.summary.update(dict(results))
        self._run.finish()


class MLflow:
    """An MLflow run of the experiment."""

    def __init__(self, output: Path, settings: LoggedSettings) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        self._mlflow.start_run(run_name=output.name)
        self._mlflow.log_params(settings)

    def scalar(self, tag: str, value: float, step: int | None) -> None:
        """Log a value."""
        self._mlflow.log_metric(tag, value, step=step)

    def finish(self, results: Mapping[str, float]) -> None:
        """Log the results and close the run."""
        self._mlflow.log_metrics(dict(results))
        self._mlflow.end_run()


Tracker = TensorBoard | WeightsAndBiases | MLflow
