"""What a run prints before it starts: the given arguments, what differs from the defaults, the machine."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Collection
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.config import leaves, plain
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.run_record import CONFIG_NAME, ENVIRONMENT_NAME
from runner.arguments import make_parser
from runner.config import KEY_OF_FLAG
from runner.result import RESULT_NAME

WIDTH = 100
KEPT_BLANK = "\u00a0"
"""A blank at which no line is broken."""


def print_args(args: argparse.Namespace, cfg: CfgNode, defaults: CfgNode) -> None:
    """Print the given arguments, and further settings that differ from the defaults or belong to the trainer.

    It is short, so that the first line of a training is on the first screen.

    Args:
        args: of `train.py`; those that were not given, or have their default, are left out.
        cfg: the run's configuration.
        defaults: of all keys.
    """
    unset = vars(make_parser().parse_args([]))
    given = {key: value for key, value in sorted(vars(args).items()) if value != unset.get(key)}
    opts = given.pop("opts", [])
    print("** Arguments **")
    print("\n".join(_wrapped(", ".join(f"{key}:{KEPT_BLANK}{value}" for key, value in given.items()))))
    if opts:
        print("\n".join(_wrapped(f"opts: {' '.join(map(str, opts))}")))
    print(f"** Config ** ({_where_the_rest_is(args, cfg)})")
    values = dict(leaves(plain(cfg)))  # a KEY VALUE pair may overrule a flag
    said = {key for flag, key in KEY_OF_FLAG.items() if flag in given and values[key] == given[flag]}
    print("\n".join(config_lines(cfg, defaults, said)))


def _where_the_rest_is(args: argparse.Namespace, cfg: CfgNode) -> str:
    shown = "the method's settings, and what differs from the defaults"
    if args.no_train:
        return shown
    name = f"full_config in {RESULT_NAME}" if args.eval_only else CONFIG_NAME
    return f"{shown}; all: {name}" + (f" in {cfg.OUTPUT_DIR or '.'}" if not args.output_dir else "")


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [line.replace(KEPT_BLANK, " ") for line in lines]


def config_lines(cfg: CfgNode, defaults: CfgNode, said: Collection[str] = ()) -> list[str]:
    """One entry per node, wrapped: `OPTIM: LR 0.0025, MAX_EPOCH 10`; keys without a node have a line each.

    Args:
        cfg: the run's configuration.
        defaults: of all keys.
        said: keys to leave out.
    """
    own, default = method_node(cfg), dict(leaves(plain(defaults)))
    nodes: dict[str, list[str]] = {}
    lines = []
    for key, value in sorted(leaves(plain(cfg))):
        if key in said or not key.startswith(f"{own}.") and key in default and default[key] == value:
            continue
        node, dot, name = key.partition(".")
        if not dot:
            lines.append(f"{key}: {value}")
            continue
        if key.startswith(f"{own}."):
            node, name = own, key.removeprefix(f"{own}.")
        nodes.setdefault(node, []).append(f"{name} {shown(value)}")
    for node, pairs in nodes.items():
        lines += _wrapped(f"{node}: {', '.join(pairs)}")
    return lines


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return repr(value) if isinstance(value, str) else str(value)


def method_node(cfg: CfgNode) -> str:
    """The node of the trainer's own settings; trainers of other repositories call it by the trainer's name."""
    name = cfg.TRAINER.NAME
    trainer = TRAINER_REGISTRY.get(name) if name in TRAINER_REGISTRY else None
    return f"TRAINER.{getattr(trainer, 'config_node', name.upper())}"


def print_environment(facts: str, trains: bool) -> None:
    """Print the versions and the hardware that matter most.

    Args:
        facts: of `collect_env_info`.
        trains: whether the run trains; then the trainer writes all of them into the output folder.
    """
    versions = [line.replace(":", "", 1) for line in facts.splitlines() if line.startswith(("Python:", "torch:"))]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    where = f"; more: {ENVIRONMENT_NAME}" if trains else ""
    print(f"** System info ** {', '.join(versions)}, {os.cpu_count()} CPU cores, {', '.join(gpus) or 'no GPU'}{where}")
