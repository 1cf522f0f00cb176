"""Collects the content of result.json from the command line, the configuration and the trainer."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import config_differences, leaves, plain
from dassl.config.differences import EXTEND_KEY, only_more_epochs, without_extension
from dassl.engine.run_record import RunRecord, classnames_digest, has_checkpoints, has_record, listed_path, read_config
from dassl.evaluation import PREDICTIONS_NAME, Classification, write_predictions
from dassl.utils.errors import BadValueError
from datasets.layout.classes import base_and_new
from runner import plugins
from runner.provenance import commit_name, draw_digest, git_state, learned_values, peak_memory, versions
from runner.result import JOINT, PARTS, read_result, write_result
from runner.same_files import by_content_of_files, file_digests
from runner.step_cost import flops_of_step
from trainers.core.record import backbone_digest, changes_no_number

SUBSAMPLE_KEY = "DATASET.SUBSAMPLE_CLASSES"
CLASSES = {("base2new", "train_base"): "base", ("base2new", "test_new"): "new", JOINT: "all"}
"""The value of that key for each part whose name says which classes it is of."""


def setting_and_part(text: str) -> tuple[str, str]:
    """The two parts of a text such as "base2new/test_new".

    Raises:
        BadValueError: there is no such setting; the available ones are listed.
    """
    setting, _, part = text.partition("/")
    if part not in PARTS.get(setting, ()):
        known = ", ".join(f"{setting}/{part}" for setting, parts in PARTS.items() for part in parts)
        raise BadValueError(f"unknown setting {text!r}: choose from {known}")
    return setting, part


def row_name(args: argparse.Namespace) -> str:
    """The name of the recipe in train.py's arguments: --config-name, else the config file's name."""
    return args.config_name or Path(args.config_file).stem


def trained_row_name(model_dir: str) -> str:
    """The name of the recipe in the result of a model's training; "" without a result."""
    trained = read_result(Path(model_dir)) if model_dir else None
    return (trained or {}).get("config", "")


class Recording:
    """Records a run. Created before the run, so that commit and files are those that ran; `finish` writes the file.

    Args:
        args: train.py's arguments.
        cfg: the run's configuration.

    Raises:
        BadValueError: --setting is unknown.
    """

    def __init__(self, args: argparse.Namespace, cfg: CfgNode) -> None:
        self._args, self._cfg = args, cfg
        self._setting, self._part = setting_and_part(args.setting)
        self._git, self.commit = git_state(), commit_name()
        self._files = file_digests(plain(cfg), trains=not args.eval_only)
        classes = CLASSES.get((self._setting, self._part))
        if classes not in (None, cfg.DATASET.SUBSAMPLE_CLASSES):
            raise BadValueError(
                f"--setting {args.setting} is of {classes} classes: set {SUBSAMPLE_KEY} {classes}, "
                f"not {cfg.DATASET.SUBSAMPLE_CLASSES}"
            )

    @property
    def _is_joint(self) -> bool:
        return (self._setting, self._part) == JOINT

    def prepare(self, trainer: Any) -> None:
        """Let the trainer's evaluation measure what the setting asks for.

        Raises:
            BadValueError: a joint evaluation of base and new classes, with an evaluator of another project or without
                new classes.
        """
        if not self._is_joint:
            return
        if not isinstance(trainer.evaluator, Classification):
            name = type(trainer.evaluator).__name__
            raise BadValueError(f"--setting {self._args.setting} needs TEST.EVALUATOR Classification, not {name}")
        base, new = base_and_new(trainer.dm.dataset.train_x)
        if not new:
            raise BadValueError(f"--setting {self._args.setting} needs new classes; the data set has {len(base)} class")
        trainer.evaluator.evaluate_jointly(base)

    def check_model(self, trainer: Any) -> None:
        """Check that the model in an evaluation of base and new classes was trained on the base classes of these data.

        A model without a record is taken as it is.

        Raises:
            BadValueError: it was trained on other classes.
        """
        folder, run = self._args.model_dir, getattr(trainer, "scored_run", None)
        config = self._config_of_model(run)
        if self._setting != "base2new" or config is None:
            return
        there = dict(leaves(config))
        for key, needed in ((SUBSAMPLE_KEY, "base"), ("DATASET.NAME", self._cfg.DATASET.NAME)):
            if there.get(key) != needed:
                raise BadValueError(
                    f"--setting {self._args.setting} needs a model that was trained with {key} {needed}, "
                    f"but {folder} was trained with {there.get(key)}"
                )
        if self._is_joint and run is not None:
            names = dict(trainer.lab2cname)
            base, _ = base_and_new(trainer.dm.dataset.train_x)
            if run.classnames != classnames_digest([names[label] for label in sorted(base)]):
                raise BadValueError(
                    f"--setting {self._args.setting} needs a model of the base classes of these data, "
                    f"but {folder} was trained on classes with other names"
                )

    def check_folder(self, defaults: CfgNode, refuses: bool) -> None:
        """Check the output folder for results of earlier commands.

        Args:
            defaults: values of keys that an earlier result may not have.
            refuses: whether the trainer refuses other configurations in a folder; else a warning is printed.

        Raises:
            BadValueError: another run's result would be replaced.
        """
        folder = Path(self._cfg.OUTPUT_DIR)
        why = self._what_is_there(folder, defaults)
        if why and refuses:
            raise BadValueError(f"{folder} {why}")
        if why:
            print(f"Warning: {folder} {why}")

    def _what_is_there(self, folder: Path, defaults: CfgNode) -> str | None:
        """Why this run cannot work in the folder; None if it can."""
        if self._args.eval_only and has_checkpoints(folder):
            return "has the checkpoints of a training run: use another --output-dir for the evaluation"
        result = read_result(folder)
        if result is None:
            return None
        if not self._args.eval_only and result.get("epochs") == 0:
            return "has the result of an evaluation: use another --output-dir for the training"
        here, there = plain(self._cfg), result.get("full_config", {})
        different = config_differences(there, here, plain(defaults), changes_no_number())
        different = by_content_of_files(different, result, here, backbone_digest)
        lines = [str(each) for each in without_extension(different, here["TRAIN"]["EXTEND"])]
        if self._args.eval_only:
            lines += self._other_evaluation(result)
        if not lines:
            return None
        remedy = "use another --output-dir"
        if only_more_epochs(different) and not self._args.eval_only:
            remedy = f"--extend ({EXTEND_KEY} True) continues that run; or use another --output-dir"
        return f"has the result of another configuration: {'; '.join(lines)}: {remedy}"

    def _other_evaluation(self, result: dict[str, Any]) -> list[str]:
        """Differences in the model or in the table entry of a recorded evaluation."""
        model, args = result.get("model") or {}, self._args
        folder = os.path.abspath(model["folder"]) if model.get("folder") else None
        pairs = (
            ("--load-epoch", model.get("load_epoch"), args.load_epoch),
            ("--model-dir", folder, os.path.abspath(args.model_dir) if args.model_dir else None),
            ("--setting", f"{result.get('setting')}/{result.get('part')}", f"{self._setting}/{self._part}"),
        )
        return [f"{flag} is {there} there, {here} here" for flag, there, here in pairs if there != here]

    def finish(self, trainer: Any) -> None:
        """Write `<output folder>/result.json` about a trainer that has finished.

        With TEST.NO_TEST there is no result, and no file.

        Raises:
            UnwritableFileError: the file cannot be written.
        """
        if getattr(trainer.evaluator, "results", None) is None:
            return
        content = self._what() | self._found(trainer) | self._how(trainer)
        content["predictions"] = self._write_predictions(trainer)
        content["step_flops"] = flops_of_step(trainer)  # last, because it makes a step
        write_result(Path(self._cfg.OUTPUT_DIR), content)

    def _write_predictions(self, trainer: Any) -> dict[str, str] | None:
        """Write predictions.npz; returns its name and SHA-256. Without predictions an earlier file is removed.

        There are none with TEST.SAVE_PREDICTIONS False, or from an evaluator or a `test` of another project.
        """
        path, evaluator = Path(self._cfg.OUTPUT_DIR, PREDICTIONS_NAME), trainer.evaluator
        outcomes, images = getattr(evaluator, "outcomes", None), getattr(trainer, "tested_images", [])
        wanted = self._cfg.TEST.SAVE_PREDICTIONS
        if not wanted or outcomes is None or len(images) != len(outcomes.labels):
            path.unlink(missing_ok=True)
            if wanted:
                print(f"Note: no {PREDICTIONS_NAME}: the test of {type(trainer).__name__} gives no images or scores")
            return None
        listed = [listed_path(image, self._cfg.DATASET.ROOT) for image in images]
        digest = write_predictions(path, outcomes, listed, trainer.dm.dataset.classnames, self._part)
        return {"file": PREDICTIONS_NAME, "sha256": digest}

    def _what(self) -> dict[str, Any]:
        args, cfg = self._args, self._cfg
        return {
            "setting": self._setting,
            "part": self._part,
            "trainer": cfg.TRAINER.NAME,
            "config": row_name(args) or trained_row_name(args.model_dir),
            "dataset": cfg.DATASET.NAME,
            "dataset_config": Path(args.dataset_config_file).stem,
            "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "shots": cfg.DATASET.NUM_SHOTS,
            "seed": cfg.SEED,
            "backbone": cfg.MODEL.BACKBONE.NAME,
        }

    def _found(self, trainer: Any) -> dict[str, Any]:
        """The evaluator's last results, and facts about training and model."""
        trained = not self._args.eval_only
        return {
            "classes": trainer.num_classes,
            "results": dict(trainer.evaluator.results),
            "per_class": getattr(trainer.evaluator, "per_class", None),
            "confusion_pairs": getattr(trainer.evaluator, "confusion_pairs", None),
            "joint": getattr(trainer.evaluator, "joint", None),
            "epochs": self._cfg.OPTIM.MAX_EPOCH if trained else 0,
            "history": trainer.epoch_history.epochs if trained else [],
            "train_seconds": trainer.epoch_history.seconds if trained else None,
            "extended_after": trainer.extended_after if trained else [],
            "earlier_commits": [each for each in trainer.commits if each != self.commit] if trained else [],
            "test_seconds": trainer.test_seconds,
            "model": None if trained or not self._args.model_dir else self._scored_model(trainer.scored_run),
        }

    def _scored_model(self, run: RunRecord | None) -> dict[str, Any]:
        """The model of an evaluation; `config` is that of its training, None without a record."""
        return {
            "folder": self._args.model_dir,
            "load_epoch": self._args.load_epoch,
            "config": self._config_of_model(run),
            "learned_sha256": run.weights if run is not None else None,
        }

    def _config_of_model(self, run: RunRecord | None) -> dict[str, Any] | None:
        """The configuration of the training of --model-dir; None without a model or a record."""
        folder = self._args.model_dir
        if run is not None or not folder:
            return run.config if run is not None else None
        return read_config(folder) if has_record(folder) else None

    def _how(self, trainer: Any) -> dict[str, Any]:
        cfg = self._cfg
        drawn = None if self._args.eval_only else draw_digest(trainer.dm.dataset.train_x, cfg.DATASET.ROOT)
        return {
            "peak_memory_bytes": peak_memory(),
            "learned_values": learned_values(trainer),
            "device": trainer.device.type,
            "few_shot_sha256": drawn,
            "init_weights_sha256": trainer.start_digest,
            "weights_sha256": backbone_digest(cfg.MODEL.BACKBONE.NAME),
            "files_sha256": self._files,
            "full_config": plain(cfg),
            "versions": versions(),
            "plugins": plugins.description(),
            **self._git,
        }
