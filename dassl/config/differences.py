"""Differences between two configurations: the comparison that decides whether two runs are the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CHANGES_NO_NUMBER = frozenset(
    {
        "OUTPUT_DIR",
        "RESUME",
        "VERBOSE",
        "DATASET.ROOT",
        "INPUT.MAX_ASPECT_RATIO",
        "INPUT.MAX_PIXELS",
        "TRAIN.PRINT_FREQ",
        "TRAIN.CHECKPOINT_FREQ",
        "TRAIN.CHECKPOINT_SECONDS",
        "TEST.PER_CLASS_RESULT",
        "TEST.COMPUTE_CMAT",
        "TEST.SAVE_PREDICTIONS",
    }
)
"""Keys of Dassl's tree for paths and output. They do not change a bit of what a run learns."""

BACKBONE_KEY, INIT_KEY = "MODEL.BACKBONE.NAME", "MODEL.INIT_WEIGHTS"
EPOCHS_KEY, EXTEND_KEY = "OPTIM.MAX_EPOCH", "TRAIN.EXTEND"

# An evaluation sets these keys itself, except the number of shots, which belongs to the training.
_OF_EVALUATION = ("DATASET.", "TEST.", "DETERMINISTIC", "USE_CUDA", INIT_KEY)
_OF_TRAINING = ("DATASET.NUM_SHOTS",)
_LOADING = ("DATALOADER.NUM_WORKERS", "DATALOADER.TEST.")


class Difference(NamedTuple):
    """A key and its two values."""

    key: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.there!r} there, {self.here!r} here"


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(
    there: dict[str, Any], here: dict[str, Any], defaults: dict[str, Any], exempt: Collection[str] = CHANGES_NO_NUMBER
) -> list[Difference]:
    """Keys in which a recorded configuration gives other results than the present one.

    Args:
        there: the recorded configuration, as `dassl.config.plain` gives it.
        here: the present one, in the same form.
        defaults: values of keys that are newer than the recorded run.
        exempt: keys that do not change the results.
    """
    recorded, default = dict(leaves(there)), dict(leaves(defaults))
    return [
        Difference(key, recorded.get(key, default.get(key)), value)
        for key, value in leaves(here)
        if key not in exempt and recorded.get(key, default.get(key)) != value
    ]


def by_content(
    differences: Sequence[Difference],
    there: dict[str, Any],
    here: dict[str, Any],
    digests: Mapping[str, tuple[str | None, str | None]],
) -> list[Difference]:
    """Compare keys that name files by the files' content, where both digests are known.

    Args:
        differences: of all keys; these compared by their text.
        there: the recorded configuration.
        here: the present one.
        digests: SHA-256 of each key's file there and here; None if it is not known.
    """
    recorded, present, found = dict(leaves(there)), dict(leaves(here)), list(differences)
    for key, (sha256, own) in digests.items():
        if sha256 is None or own is None:
            continue
        found = [each for each in found if each.key != key]
        if sha256 != own:
            found.append(Difference(key, _file(recorded, key, sha256), _file(present, key, own)))
    return found


def _file(names: dict[str, Any], key: str, sha256: str) -> str:
    return f"{names.get(key, '')} (SHA-256 {sha256[:8]}...)"


def of_the_model(differences: Sequence[Difference]) -> list[Difference]:
    """The differences in keys that belong to a trained model, not to its evaluation.

    An evaluation chooses its own data set, classes, test batches and reading processes.
    """
    return [each for each in differences if is_inherited(each.key) and not each.key.startswith(_LOADING)]


def is_inherited(key: str) -> bool:
    """Whether an evaluation uses the training's value of `key` unless the command sets it."""
    return key.startswith(_OF_TRAINING) or not key.startswith(_OF_EVALUATION)


def without_extension(differences: Sequence[Difference], extend: bool) -> list[Difference]:
    """The differences that remain if `TRAIN.EXTEND` (here: `extend`) allows more epochs."""
    if not extend or not _has_more_epochs(differences):
        return list(differences)
    return [each for each in differences if each.key != EXTEND_KEY and not _is_longer(each)]


def only_more_epochs(differences: Sequence[Difference]) -> bool:
    """Whether the present configuration is the recorded one with more epochs, and nothing else."""
    return _has_more_epochs(differences) and not without_extension(differences, extend=True)


def _has_more_epochs(differences: Sequence[Difference]) -> bool:
    return any(each.key == EPOCHS_KEY and _is_longer(each) for each in differences)


def _is_longer(difference: Difference) -> bool:
    numbers = isinstance(difference.there, int) and isinstance(difference.here, int)
    return difference.key.endswith(".MAX_EPOCH") and numbers and difference.there < difference.here
