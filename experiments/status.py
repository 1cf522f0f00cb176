"""Whether a run still has to be done. Only a complete result of the same configuration says that it has not."""

from __future__ import annotations

from typing import Any

from dassl.config import plain
from dassl.utils.errors import BadValueError, MissingFileError
from dassl.utils.torchtools import POINTER_NAME
from experiments.results import config_differences, read_result
from experiments.runs import Run, default_config, short
from trainers.record import CONFIG_NAME, read_record


def is_finished(run: Run) -> bool:
    """Whether `run` has a result of the planned configuration, not older than the model that it tests.

    Raises:
        UserError: the result or the checkpoint there is another configuration's, or the result is unreadable.
    """
    result = read_result(run.folder)
    if result is None:
        _check_interrupted(run)
        return False
    _check_config(run, result.get("full_config", {}))
    if run.needs is None:
        return True
    model = read_result(run.needs)
    return model is not None and model["date"] <= result["date"]


def _check_config(run: Run, found: dict[str, Any]) -> None:
    different = config_differences(found, run.config(), plain(default_config()), run.trains)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise BadValueError(
            f"{short(run.folder)} was run with another configuration ({different[0]}{more}): set OUTPUT to another "
            "folder, give the variant a name in the experiment's YAML, or delete that folder"
        )


def _check_interrupted(run: Run) -> None:
    """train.py would go on from any checkpoint there, whatever it was trained with."""
    if (run.folder / CONFIG_NAME).is_file() and any(run.folder.glob(f"*/{POINTER_NAME}")):
        _check_config(run, plain(read_record(run.folder, default_config()).cfg))


def check_model(run: Run) -> None:
    """Raises MissingFileError when the model that `run` tests has not been trained to its end."""
    if run.needs is not None and read_result(run.needs) is None:
        raise MissingFileError(f"{short(run.needs)} holds no finished training: run it first ({run.label} needs it)")
