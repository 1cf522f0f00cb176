"""Hand-written prompts: each data set's template, and the ensembles made of many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip._open_clip import open_clip_module
from clip.clip import tokenize
from clip.model import CLIP

DEFAULT_TEMPLATE = "a photo of a {}."

CUSTOM_TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "StanfordCars": "a photo of a {}.",
    "Food101": "a photo of {}, a type of food.",
    "SUN397": "a photo of a {}.",
    "Caltech101": "a photo of a {}.",
    "UCF101": "a photo of a person doing {}.",
    "ImageNet": "a photo of a {}.",
    "ImageNetSketch": "a photo of a {}.",
    "ImageNetV2": "a photo of a {}.",
    "ImageNetA": "a photo of a {}.",
    "ImageNetR": "a photo of a {}.",
}

TEACHER_TEMPLATE_COUNT = 60  # ProMetaR's list is CLIP's 80 less the last 20


def template_for(dataset: str) -> str:
    """Template of a data set by its registry name; the plain one for data of one's own."""
    return CUSTOM_TEMPLATES.get(dataset, DEFAULT_TEMPLATE)


def selected_templates() -> list[str]:
    """CLIP's short list of 7, which ZeroshotCLIP2 averages over."""
    return [template("{}") for template in open_clip_module("zero_shot_metadata").SIMPLE_IMAGENET_TEMPLATES]


def teacher_templates() -> list[str]:
    """The 60 templates behind ProMetaR's frozen text features."""
    templates = open_clip_module("zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES
    return [template("{}") for template in templates[:TEACHER_TEMPLATE_COUNT]]


def readable(classname: str) -> str:
    """Class name as it stands in a prompt."""
    return classname.replace("_", " ")


@torch.no_grad()
def template_features(clip: CLIP, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Text features of every class in every template, not normalised: [templates, C, e]."""
    device = clip.logit_scale.device
    features = []
    for template in templates:  # one at a time: the words before the name are shared by all classes
        tokens = tokenize([template.format(readable(name)) for name in classnames])
        features.append(clip.encode_text(tokens.to(device)))
    return torch.stack(features)
