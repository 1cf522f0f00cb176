"""The configuration of a run: defaults, the data set's file, the method's file, flags, KEY VALUE pairs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

import datasets
import trainers
from dassl.config import config_differences, get_cfg_default, leaves, merge_file, merge_opts, plain
from dassl.config.differences import is_inherited, of_the_model
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.found_models import found_instead
from dassl.engine.run_record import has_record, read_config
from dassl.seeds import MAX_SEED
from dassl.utils import BadValueError, MissingFileError
from datasets.layout.base import full_path
from runner import plugins
from runner.recording import row_name, trained_row_name
from trainers.core.record import changes_no_number, read_record, refuse_backbone_of_the_folder
from trainers.core.trainer import PromptTrainer

KEY_OF_FLAG = {
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "seed": "SEED",
    "deterministic": "DETERMINISTIC",
    "extend": "TRAIN.EXTEND",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "trainer": "TRAINER.NAME",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}
"""The config keys that flags of `train.py` set."""


def reset_cfg(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Let given flags override the config files."""
    for flag, key in KEY_OF_FLAG.items():
        value = getattr(args, flag)
        if value is not None and value != "":
            set_key(cfg, key, value)


def overridden_flags(args: argparse.Namespace) -> list[str]:
    """A line for each flag, and each KEY VALUE pair, whose key a later pair sets to something else; without folders."""
    pairs: dict[str, Any] = {}
    repeated = []
    for key, value in zip(args.opts[::2], args.opts[1::2], strict=True):
        if str(pairs.get(key, value)) != str(value) and key not in changes_no_number():
            repeated.append(f"{key} {value} overrides the earlier {key} {pairs[key]}")
        pairs[key] = value
    given = ((flag, key, getattr(args, flag)) for flag, key in KEY_OF_FLAG.items() if key not in changes_no_number())
    return [
        f"{key} {pairs[key]} (a KEY VALUE pair) overrides --{flag.replace('_', '-')} {value}"
        for flag, key, value in given
        if key in pairs and value not in (None, "") and str(value) != str(pairs[key])
    ] + repeated


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a dotted key."""
    *nodes, leaf = key.split(".")
    for name in nodes:
        cfg = cfg[name]
    cfg[leaf] = value


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys of this project's data sets and trainers, and those of plug-ins, to Dassl's tree."""
    datasets.add_config(cfg)
    trainers.add_config(cfg)
    plugins.extend_cfg_by_plugins(cfg)


def default_cfg() -> CfgNode:
    """The defaults of all keys."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def setup_cfg(
    args: argparse.Namespace, base: CfgNode | None = None, above_files: Mapping[str, Any] | None = None
) -> CfgNode:
    """The frozen configuration: defaults, data set's file, method's file, flags, KEY VALUE pairs; later ones win.

    Plug-ins are loaded first. Their `reset_cfg` comes between the files and the flags.

    Args:
        base: replaces the defaults.
        above_files: values by key that override the files, but not the flags and pairs.
    """
    plugins.load_plugins(args.plugin)
    cfg = default_cfg() if base is None else base.clone()
    if args.dataset_config_file:
        merge_file(cfg, args.dataset_config_file)
    if args.config_file:
        merge_file(cfg, args.config_file)
    plugins.reset_cfg_by_plugins(cfg, args)
    for key, value in (above_files or {}).items():
        set_key(cfg, key, value)
    reset_cfg(cfg, args)
    merge_opts(cfg, args.opts)
    plugins.check_recorded(cfg.PLUGINS, args.config_file or args.model_dir or "the key PLUGINS")
    cfg.PLUGINS = plugins.labels()
    if cfg.SEED > MAX_SEED:
        raise BadValueError(f"SEED must be at most {MAX_SEED} (below 0: no fixed seed), not {cfg.SEED}")
    if cfg.DATASET.PATH:  # a relative path would mean different data in different working directories
        cfg.DATASET.PATH = full_path(cfg.DATASET.PATH)
    cfg.freeze()
    return cfg


def evaluation_cfg(args: argparse.Namespace) -> CfgNode:
    """The configuration of an evaluation: the record in the model's folder, overridden by the command.

    Settings of the evaluation (data set, classes, test batches, ...) come from the command alone. If the command
    contradicts the record in settings of the model, the trainer refuses to load it. The config file of the training is
    not a contradiction: the record's values override it.

    Raises:
        UserError: there is no model in the folder, or settings are wrong.
    """
    checkpoints = Path(args.model_dir).glob("*/*.pth*")  # of whatever name
    if args.model_dir and learns_prompts(args.trainer) and not (has_record(args.model_dir) or any(checkpoints)):
        raise MissingFileError(f"no trained model for --model-dir {args.model_dir}: {found_instead(args.model_dir)}")
    cfg = setup_cfg(args)
    if not args.model_dir or not has_record(args.model_dir):
        return cfg
    if args.trainer and not keeps_to_records(args.trainer):
        return cfg
    plugins.check_recorded(read_config(args.model_dir).get("PLUGINS", ()), args.model_dir)
    base = default_cfg()
    recorded = read_record(args.model_dir, base).cfg
    if not keeps_to_records(recorded.TRAINER.NAME):
        return cfg
    if args.trainer not in ("", recorded.TRAINER.NAME):
        raise BadValueError(f"{args.model_dir} has a model of {recorded.TRAINER.NAME}, not of {args.trainer}")
    given = (*args.opts[::2], *(["MODEL.BACKBONE.NAME"] if args.backbone else []))
    if "MODEL.BACKBONE.NAME" not in given:
        refuse_backbone_of_the_folder(recorded.MODEL.BACKBONE.NAME, args.model_dir)
    inherited = {key: value for key, value in leaves(recorded) if is_inherited(key) and key not in changes_no_number()}
    trained_row = trained_row_name(args.model_dir)
    if trained_row in ("", row_name(args)):
        model_cfg = setup_cfg(args, base, above_files=inherited)
        if not trained_row and args.config_file:
            warn_of_unknown_file(args, model_cfg, cfg)
        return model_cfg
    for key, value in inherited.items():
        set_key(base, key, value)
    return setup_cfg(args, base)


def warn_of_unknown_file(args: argparse.Namespace, model_cfg: CfgNode, command_cfg: CfgNode) -> None:
    """Warn if the given config file differs from the record of a model whose training has no result.json."""
    there, here = plain(model_cfg), plain(command_cfg)
    different = of_the_model(config_differences(there, here, {}, changes_no_number()))
    if different:
        print(
            f"Warning: {args.model_dir} has no result.json, so it is unknown whether its training used "
            f"{args.config_file}; the model's own settings are used: {'; '.join(map(str, different))}"
        )


def learns_prompts(trainer: str) -> bool:
    """Whether it is a trainer of this project that needs a trained model to be evaluated."""
    return trainer in TRAINER_REGISTRY and issubclass(TRAINER_REGISTRY.get(trainer), PromptTrainer)


def keeps_to_records(trainer: str) -> bool:
    """Whether a trainer refuses folders of other configurations; trainers of other repositories only warn."""
    found = TRAINER_REGISTRY.get(trainer) if trainer in TRAINER_REGISTRY else None
    return getattr(found, "refuses_other_configurations", False)
