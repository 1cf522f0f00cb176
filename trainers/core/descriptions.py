"""Sentences about classes, in a JSON file {class name: [sentences]}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clip.model import CLIP
from dassl.utils import UserError, read_json
from trainers.core.prompts import normalised
from trainers.core.templates import kept_text_features, readable, tokenize_prompts

KEPT = "normalised features of one sentence a class after the other"
"""What a file of their features holds; part of its name."""


def read_descriptions(path: str, classnames: Sequence[str]) -> list[list[str]]:
    """The sentences of each class, as many for every class.

    Args:
        path: the file; class names in it have blanks in place of underscores.

    Raises:
        UserError: no such file, or it does not hold such sentences; the class is named.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold an object {{class name: [sentences]}}, not a {type(content).__name__}")
    by_name: dict[str, Any] = {}
    for name, sentences in content.items():
        if by_name.setdefault(readable(name), sentences) is not sentences:
            raise UserError(f"{path} names class {readable(name)!r} twice, with blanks and with underscores")
    found = [_sentences_of(readable(name), by_name, path) for name in classnames]
    for name, sentences in zip(classnames, found, strict=True):
        if len(sentences) != len(found[0]):
            raise UserError(
                f"{path} has {len(sentences)} sentences for class {name!r}, but {len(found[0])} for "
                f"{classnames[0]!r}: all classes need as many"
            )
    return found


def _sentences_of(name: str, by_name: dict[str, Any], path: str) -> list[str]:
    if name not in by_name:
        raise UserError(f"{path} has no sentences for class {name!r}: add them, or name the file of this data set")
    sentences = by_name[name]
    if not isinstance(sentences, list) or not sentences or not all(isinstance(text, str) for text in sentences):
        raise UserError(f"{path}: class {name!r} should have a list of at least one sentence")
    return sentences


def description_features(clip: CLIP, descriptions: Sequence[Sequence[str]]) -> Tensor:
    """Normalised features [R, C, e] by the frozen text tower of R sentences for each of C classes; kept on disk.

    Raises:
        UserError: a sentence is too long for the text tower.
    """

    @torch.no_grad()
    def encode() -> Tensor:
        device = clip.logit_scale.device
        tokens = [
            tokenize_prompts(texts, clip, "sentence").to(device) for texts in zip(*descriptions, strict=True)
        ]  # R of [C, L]
        return torch.stack([normalised(clip.encode_text(of_all_classes)) for of_all_classes in tokens])

    return kept_text_features(clip, [KEPT, [list(sentences) for sentences in descriptions]], encode)
