"""Decides whether a run must be executed: only a complete result of the same configuration says that it need not."""

from __future__ import annotations

from typing import Any

from dassl.config import config_differences, plain
from dassl.config.differences import EXTEND_KEY, only_more_epochs, without_extension
from dassl.engine.run_record import has_checkpoints, has_record
from dassl.utils.errors import BadValueError, MissingFileError
from experiments.plan.runs import ROOT, PlannedRun, default_config, short_path
from runner.result import WORKERS, read_result
from runner.same_files import by_content_of_files, local_backbone_digest, without_files
from trainers.core.record import changes_no_number, read_record


def is_finished(run: PlannedRun) -> bool:
    """Whether `run` has a result of the planned configuration, not older than the model that it tests.

    Raises:
        UserError: the result or the checkpoint there is another configuration's, or the result is unreadable.
    """
    result = read_result(run.folder)
    if result is None:
        _check_interrupted(run)
        return False
    if _is_to_be_extended(run, result):
        return False
    if run.needs is None:
        return True
    model = read_result(run.needs)
    return model is not None and model["date"] <= result["date"]


def _is_to_be_extended(run: PlannedRun, found: dict[str, Any]) -> bool:
    """Whether `run` gives what was run before more epochs (TRAIN.EXTEND).

    Args:
        found: its result; or its `full_config` alone, where it was interrupted.

    Raises:
        BadValueError: anything else differs.
    """
    planned = run.config()
    exempt = changes_no_number() if run.trains else changes_no_number() | {WORKERS}
    different = config_differences(found["full_config"], planned, plain(default_config()), exempt)
    if "results" in found:
        different = by_content_of_files(different, found, planned, local_backbone_digest, str(ROOT))
    else:
        different = without_files(different)
    refused = without_extension(different, planned["TRAIN"]["EXTEND"])
    if not refused:
        return bool(different)
    keys = "; ".join(f"{key} is {was!r} there, planned: {value!r}" for key, was, value in refused)
    remedy = (
        "set OUTPUT to another folder, give the variant a name in the experiment's YAML, or delete that folder"
        if not only_more_epochs(different)
        else f"{EXTEND_KEY} True trains that run on; or set OUTPUT to another folder"
    )
    raise BadValueError(f"{short_path(run.folder)} was run with another configuration ({keys}): {remedy}")


def _check_interrupted(run: PlannedRun) -> None:
    """Refuse early what train.py refuses to resume."""
    if has_record(run.folder) and has_checkpoints(run.folder):
        _is_to_be_extended(run, {"full_config": plain(read_record(run.folder, default_config()).cfg)})


def check_model(run: PlannedRun) -> None:
    """Check that the model that `run` tests has been trained to its end.

    Raises:
        MissingFileError: it has not.
    """
    if run.needs is not None and read_result(run.needs) is None:
        raise MissingFileError(f"{short_path(run.needs)} has no finished training: run it first ({run.label} needs it)")
