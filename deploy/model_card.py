"""The model card of learned prompts: method, settings, data set, draw, accuracies, and the commands.

Names come from configurations and data, so everything is escaped: nothing in a card is markup that a name brought in.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from dassl.config import leaves, merge_file, plain
from dassl.utils import in_markdown, printable
from runner.config import default_cfg
from runner.provenance import ROOT
from trainers.core.record import changes_no_number

SHOWN_CLASSES = 50
_ELSEWHERE = ("TRAINER.NAME", "SEED", "PLUGINS", "VERSION")
"""Keys that a command sets by its flags, or not at all."""


class Shared(NamedTuple):
    """What a card tells of."""

    repository: str
    """owner/name on the Hub."""
    cfg: CfgNode
    """Configuration of the training, or of an exported folder, without folders."""
    classes: Sequence[str]
    results: Sequence[Mapping[str, Any]]
    """`result.json` of the training (first, if it is there) and of evaluations."""
    shortened: Sequence[str]
    """Keys whose value is the name of a file without its folder, if a number depends on them."""
    of_export: bool = False
    """Whether the configuration is an export's: float32, on a CPU, and without the start of the training."""

    @property
    def training(self) -> Mapping[str, Any] | None:
        """The result of the training."""
        return next((each for each in self.results if each.get("model") is None), None)


def model_card(shared: Shared) -> str:
    """The text of README.md."""
    cfg, tags = shared.cfg, ["clip", "prompt-learning", shared.cfg.TRAINER.NAME]
    own_backbone = " --backbone FILE" if "MODEL.BACKBONE.NAME" in shared.shortened else ""
    return "\n".join(
        [
            *("---", f"tags: {json.dumps(tags)}", "pipeline_tag: zero-shot-image-classification", "---", ""),
            f"# {escaped(shared.repository)}",
            "",
            f"What {escaped(cfg.TRAINER.NAME)} learned for a frozen CLIP ({escaped(cfg.MODEL.BACKBONE.NAME)}): the "
            "learned tensors alone, without CLIP's weights. They need the project that wrote them.",
            *("", "## Use", ""),
            f"    python -m deploy.hub pull {_word(shared.repository)} --output-dir pulled",
            f"    python predict.py --model-dir pulled --images photo.jpg{own_backbone}",
            *("", "## Training", "", *_training_rows(shared), ""),
            *_command(shared),
            "",
            *_note_of_shortened(shared),
            *("## Accuracies", "", *_accuracies(shared), ""),
            *(f"## Classes ({len(shared.classes):,})", "", _class_list(shared.classes), ""),
        ]
    )


def escaped(value: object) -> str:
    """A value as Markdown text in which nothing is markup, a link or a mention."""
    return re.sub(r"([:@.])", r"\\\1", in_markdown(str(value)))


def _word(value: object) -> str:
    """A word of a shell command, in an indented block."""
    return shlex.quote(printable(value))


def _training_rows(shared: Shared) -> list[str]:
    """A table of the training's facts."""
    cfg, training = shared.cfg, shared.training or {}
    shots, seed = cfg.DATASET.NUM_SHOTS, cfg.SEED
    rows = {
        "method": cfg.TRAINER.NAME,
        "settings": training.get("config") or "see the command below",
        "CLIP": cfg.MODEL.BACKBONE.NAME,
        "SHA-256 of the CLIP file": training.get("weights_sha256") or "not recorded",
        "data set": cfg.DATASET.NAME,
        "classes of the data set": cfg.DATASET.SUBSAMPLE_CLASSES,
        "images per class": shots if shots > 0 else "all",
        "seed of the draw and the training": seed if seed >= 0 else "none",
        "file of the draw": cfg.DATASET.FEWSHOT_SPLIT or "none: drawn with the seed",
        "SHA-256 of the list of training images": training.get("few_shot_sha256") or "not recorded",
        "epochs": cfg.OPTIM.MAX_EPOCH,
    }
    if cfg.PLUGINS:
        rows["plug-ins"] = ", ".join(map(str, cfg.PLUGINS))
    return ["| | |", "| --- | --- |", *(f"| {name} | {escaped(value)} |" for name, value in rows.items())]


def _command(shared: Shared) -> list[str]:
    if shared.of_export:
        return [
            "The command of the training is not recorded: these files were taken from an exported folder, which has "
            "the settings of predictions in float32."
        ]
    return [f"    {training_command(shared)}"]


def training_command(shared: Shared) -> str:
    """The command that trains with this configuration, where DATA and OUTPUT are folders of the user's choice."""
    cfg, training = shared.cfg, shared.training or {}
    base = default_cfg()
    words = ["python", "train.py", "--trainer", cfg.TRAINER.NAME]
    files = {
        "--dataset-config-file": Path("configs", "datasets", f"{training.get('dataset_config', '')}.yaml"),
        "--config-file": Path("configs", "trainers", cfg.TRAINER.NAME, f"{training.get('config', '')}.yaml"),
    }
    for flag, path in files.items():
        if path.stem == Path(path.stem).name and (ROOT / path).is_file():
            merge_file(base, str(ROOT / path))
            words += [flag, str(path)]
    words += ["--root", "DATA", "--output-dir", "OUTPUT"]
    if cfg.SEED >= 0:
        words += ["--seed", str(cfg.SEED)]
    usual, left_out = dict(leaves(plain(base))), {*changes_no_number(), *_ELSEWHERE}
    for key, value in leaves(plain(cfg)):
        if key not in left_out and (key not in usual or usual[key] != value):
            words += [key, _as_option(value)]
    return " ".join(map(_word, words))


def _as_option(value: Any) -> str:
    """A value as a KEY VALUE pair gives it; text that would be read as something else is in quotes."""
    if not isinstance(value, str):
        return str(tuple(value) if isinstance(value, list) else value)
    text = value or repr(value)
    while _read_option(text) != value:
        text = repr(text)
    return text


def _read_option(text: str) -> Any:
    """The value that a KEY VALUE pair sets: yacs decodes the word, and the result once more when it merges."""
    return CfgNode._decode_cfg_value(CfgNode._decode_cfg_value(text))


def _note_of_shortened(shared: Shared) -> list[str]:
    if not shared.shortened:
        return []
    return [f"Files are named without their folders: {', '.join(map(escaped, shared.shortened))}.", ""]


def _accuracies(shared: Shared) -> list[str]:
    """A table of all results, in the order given."""
    if not shared.results:
        return ["Not recorded: these files come without the result of their training."]
    names = list(dict.fromkeys(name for each in shared.results for name in each["results"]))
    head = ["data set", "classes", *names]
    lines = [f"| {' | '.join(map(escaped, head))} |", f"|{' --- |' * len(head)}"]
    for each in shared.results:
        classes = f"{each.get('subsample_classes', '?')} ({each.get('classes', '?')})"
        cells = [each.get("dataset", "?"), classes, *(_number(each["results"].get(name)) for name in names)]
        lines.append(f"| {' | '.join(map(escaped, cells))} |")
    note = [] if shared.training else ["", "The result of the training itself is not recorded."]
    return [*lines, *note]


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "" if value is None else str(value)


def _class_list(classes: Sequence[str]) -> str:
    more = len(classes) - SHOWN_CLASSES
    names = ", ".join(map(escaped, classes[:SHOWN_CLASSES]))
    return f"{names} and {more:,} more (classnames.json)" if more > 0 else names
