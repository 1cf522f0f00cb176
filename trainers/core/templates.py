"""Hand-written prompts: each data set's template, and the ensembles made of many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import datasets  # noqa: F401  registers the readers
from clip.backbones.open_clip_files import open_clip_module
from clip.clip import tokenize
from clip.model import CLIP
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UnwritableFileError, UserError, write_bytes_atomically
from dassl.utils.torchtools import raw_bytes
from dassl.utils.yaml_files import read_yaml

DEFAULT_TEMPLATE = "a photo of a {}."

CUSTOM_TEMPLATES = {
    name: DATASET_REGISTRY.get(name).template
    for name in DATASET_REGISTRY.registered_names()
    if DATASET_REGISTRY.stated(name, "paper_name", "")
}
"""Registered name -> template of the papers' data sets, as their readers state it."""

METHOD_TEMPLATES = Path(__file__).parent / "published_templates"
"""Folder of the lists that other methods' authors published: a YAML file each, {registry name: template}."""

TEACHER_TEMPLATE_COUNT = 60  # ProMetaR's list is CLIP's 80 without the last 20


def template_for(dataset: str) -> str:
    """Template of a data set by its registry name; the default one for custom data."""
    return CUSTOM_TEMPLATES.get(dataset, DEFAULT_TEMPLATE)


def method_template(method: str, dataset: str, default: str = DEFAULT_TEMPLATE) -> str:
    """Template that a method's authors use for a data set.

    Args:
        method: name of a file in `METHOD_TEMPLATES`, without its suffix.
        dataset: registry name of a data set.
        default: template of custom data.

    Returns:
        The template, with "{}" in place of the class name.
    """
    return read_yaml(METHOD_TEMPLATES / f"{method}.yaml").get(dataset, default)


def selected_templates() -> list[str]:
    """CLIP's short list of 7, which ZeroshotCLIP2 averages over."""
    return [template("{}") for template in open_clip_module("zero_shot_metadata").SIMPLE_IMAGENET_TEMPLATES]


def teacher_templates() -> list[str]:
    """The 60 templates behind ProMetaR's frozen text features."""
    templates = open_clip_module("zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES
    return [template("{}") for template in templates[:TEACHER_TEMPLATE_COUNT]]


KEPT = "mean, not normalised, added in float32"
"""What a file of ProMetaR's text features holds; part of its name."""


def readable(classname: str) -> str:
    """Class name as it stands in a prompt."""
    return classname.replace("_", " ")


def tokenize_prompts(texts: Sequence[str], clip: CLIP, part: str = "class name") -> Tensor:
    """Token ids [C, L] of class prompts.

    Args:
        texts: C prompts.
        clip: the model, whose text tower has L positions.
        part: what of a prompt may be too long, for the error message.

    Raises:
        UserError: a prompt is too long for the text tower.
    """
    try:
        return tokenize(texts, clip.context_length)
    except RuntimeError as error:
        raise UserError(f"a {part} is too long for the text tower: {error}") from error


@torch.no_grad()
def template_features(clip: CLIP, classnames: Sequence[str], templates: Sequence[str]) -> Iterator[Tensor]:
    """Text features [C, e] of all classes, not normalised, for one template after the other."""
    device = clip.logit_scale.device
    for template in templates:  # one at a time: the words before the name are shared by all classes
        tokens = tokenize_prompts([template.format(readable(name)) for name in classnames], clip)
        yield clip.encode_text(tokens.to(device))


def teacher_text_features(
    clip: CLIP, classnames: Sequence[str], cache: Path | None = None, templates: Sequence[str] | None = None
) -> Tensor:
    """Text features of the frozen CLIP that a method learns from: the mean over templates, not normalised.

    Args:
        clip: the frozen model.
        classnames: C names.
        cache: as of `kept_text_features`.
        templates: sentences with "{}" in place of the class name; None: ProMetaR's 60.

    Returns:
        Features [C, e], in float32 at least.
    """
    templates = teacher_templates() if templates is None else templates

    def mean() -> Tensor:
        wide = torch.promote_types(clip.dtype, torch.float32)  # sixty additions in half precision would be seen
        features = (features.to(wide) for features in template_features(clip, classnames, templates))
        return reduce(torch.add, features) / len(templates)

    return kept_text_features(clip, [KEPT, list(classnames), list(templates)], mean, cache)


def kept_text_features(clip: CLIP, content: list, compute: Callable[[], Tensor], cache: Path | None = None) -> Tensor:
    """Features of the frozen text tower, computed once and kept on disk.

    The file name is made of everything they depend on. The file also contains a digest of its values and of that
    name, so a file that was damaged, changed or renamed is not used.

    Args:
        content: what is computed, besides the tower: strings and lists of them.
        compute: gives the features.
        cache: folder of the files; None: ~/.cache/clip/text_features.
    """
    folder = cache or Path.home() / ".cache" / "clip" / "text_features"
    inputs = _digest(clip, content)
    path = folder / f"{inputs}.safetensors"
    try:
        return _read_kept(path, inputs).to(clip.logit_scale.device)
    except FileNotFoundError:
        pass  # the first run
    except (OSError, SafetensorError, ValueError) as error:
        print(f"{path} cannot be used ({error}): the teacher's text features are computed again")
    features = compute()
    kept = features.cpu().contiguous()
    try:
        write_bytes_atomically(path, save({"mean": kept}, {"digest": _digest_of_kept(kept, inputs)}))
    except UnwritableFileError as error:
        print(f"The teacher's text features are not kept for the next run: {error}")
    return features


def _read_kept(path: Path, inputs: str) -> Tensor:
    """The features [C, e] in a file.

    Raises:
        ValueError: they are not those that were written for these inputs.
    """
    with safe_open(path, framework="pt") as file:
        digest = (file.metadata() or {}).get("digest")
        kept = file.get_tensor("mean") if "mean" in file.keys() else None  # noqa: SIM118 (not a dictionary)
    if kept is None or digest != _digest_of_kept(kept, inputs):
        raise ValueError("its values are not those that were written for these class names and weights")
    return kept


def _digest_of_kept(kept: Tensor, inputs: str) -> str:
    """SHA-256 over the kept values and the digest of what they were computed from."""
    digest = hashlib.sha256(inputs.encode())
    _add_tensor(digest, "mean", kept)
    return digest.hexdigest()


def _digest(clip: CLIP, content: list) -> str:
    """SHA-256 over the text tower and what is computed by it."""
    digest = hashlib.sha256(json.dumps(content).encode())
    for name, tensor in clip.state_dict().items():
        if not name.startswith("visual."):
            _add_tensor(digest, name, tensor)
    return digest.hexdigest()


def _add_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Name, type, shape and values."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(raw_bytes(tensor))
