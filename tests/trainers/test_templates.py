"""Hand-written prompts and the teacher's cached text features.

Expected values: the templates that the CoOp repositories give each data set; text features encoded one prompt at a time
by the plain tower.
"""

from __future__ import annotations

import hashlib
import json

import plain_clip
import pytest
import torch
from golden_data import FULL_METHODS
from safetensors.torch import save
from tiny_runs import load_tiny_clip

from clip.clip import tokenize
from dassl.utils.yaml_files import read_yaml
from trainers.core.templates import (
    CUSTOM_TEMPLATES,
    METHOD_TEMPLATES,
    selected_templates,
    teacher_templates,
    teacher_text_features,
    template_features,
    template_for,
)

NAMES = ["face", "wild_cat", "sea_or_lake"]


@pytest.fixture(scope="module")
def clip(backbones):
    return load_tiny_clip(backbones["vit"])


def test_templates_of_the_data_sets():
    assert template_for("EuroSAT") == "a centered satellite photo of {}."
    assert template_for("UCF101") == "a photo of a person doing {}."
    assert template_for("DescribableTextures") == "{} texture."
    assert template_for("MyOwnData") == "a photo of a {}."
    assert len(CUSTOM_TEMPLATES) == 15
    assert all(template.count("{}") == 1 for template in CUSTOM_TEMPLATES.values())


@pytest.mark.parametrize("templates, count", [(teacher_templates(), 60), (selected_templates(), 7)])
def test_ensembles(templates, count):
    assert len(templates) == len(set(templates)) == count
    assert all(template.count("{}") == 1 for template in templates)
    assert templates == (teacher_templates() if count == 60 else selected_templates())  # not lengthened by use


def test_the_selected_seven_are_the_published_ones():
    """SHA-256 of CoOp's lines, joined by newlines."""
    digest = hashlib.sha256("\n".join(selected_templates()).encode()).hexdigest()
    assert digest.startswith("6ef3883987d224b7")


PUBLISHED_LISTS = {
    "kgcoop": ("kgcoop", "teacher"),
    "prograd": ("prograd", "teacher"),
    "tcp_teacher": ("tcp", "teacher"),
    "tcp": ("tcp", "prompt"),
}
"""Our file: the method, and how its list is called in its table of hyper-parameters."""


def test_every_methods_list_has_a_published_one():
    assert {path.stem for path in METHOD_TEMPLATES.iterdir()} == set(PUBLISHED_LISTS)


@pytest.mark.skipif(not FULL_METHODS.is_dir(), reason="the published lists are not in this checkout")
@pytest.mark.parametrize("file", PUBLISHED_LISTS)
def test_a_methods_templates_are_the_published_ones(file):
    method, use = PUBLISHED_LISTS[file]
    lists = json.loads((FULL_METHODS / f"hparams_{method}.json").read_text())["templates"]
    (published,) = [entries for name, entries in lists.items() if name.startswith(use)]
    assert read_yaml(METHOD_TEMPLATES / f"{file}.yaml") == published and len(published) == 15


def test_features_of_a_template(clip):
    ours = list(template_features(clip, NAMES, ["a photo of a {}.", "{} texture."]))
    state = clip.state_dict()
    for features, texts in zip(
        ours,
        (
            ["a photo of a face.", "a photo of a wild cat.", "a photo of a sea or lake."],
            ["face texture.", "wild cat texture.", "sea or lake texture."],
        ),
        strict=True,
    ):
        assert (features - plain_clip.text_features(state, tokenize(texts))).abs().max() < 1e-5


def test_teacher_features_are_kept_and_read_again(clip, tmp_path, monkeypatch):
    first = teacher_text_features(clip, NAMES, tmp_path)
    texts = [template.format(name.replace("_", " ")) for template in teacher_templates() for name in NAMES]
    plain = plain_clip.text_features(clip.state_dict(), tokenize(texts)).unflatten(0, (60, 3)).mean(dim=0)
    assert (first - plain).abs().max() < 1e-5
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(clip), "encode_text", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(teacher_text_features(clip, NAMES, tmp_path), first)


def test_teacher_features_of_something_else_are_not_mistaken(clip, tmp_path):
    first = teacher_text_features(clip, NAMES, tmp_path)
    assert not torch.equal(teacher_text_features(clip, NAMES[::-1], tmp_path), first)
    other = load_other_weights(clip)
    assert not torch.equal(teacher_text_features(other, NAMES, tmp_path), first)
    double = teacher_text_features(other.double(), NAMES, tmp_path)
    assert double.dtype == torch.float64
    assert len(list(tmp_path.iterdir())) == 4


def load_other_weights(clip):
    """The same model with one value changed."""
    from clip.backbones.checkpoint import clip_from_state_dict

    state = {name: value.clone() for name, value in clip.state_dict().items()}
    state["text_projection"][0, 0] += 0.5
    return clip_from_state_dict(state)


def test_a_damaged_file_is_made_anew_and_an_unwritable_folder_said(clip, tmp_path, capsys):
    first = teacher_text_features(clip, NAMES, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:40], b"not safetensors at all" * 9):
        file.write_bytes(damaged)
        assert torch.equal(teacher_text_features(clip, NAMES, tmp_path / "cache"), first)
        assert file.read_bytes() == whole
    capsys.readouterr()
    other = teacher_text_features(clip, NAMES[::-1], tmp_path / "other")
    (file_of_other,) = (tmp_path / "other").iterdir()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    without_digest = save({"mean": first})
    wrong_shape = save({"mean": first[:2]})
    for changed in (flipped, file_of_other.read_bytes(), without_digest, wrong_shape, save({"odd": other})):
        file.write_bytes(changed)
        assert torch.equal(teacher_text_features(clip, NAMES, tmp_path / "cache"), first)
        assert file.read_bytes() == whole
        assert "are not those that were written for these class names and weights" in capsys.readouterr().out
    (tmp_path / "blocked").write_text("a file where the folder should be")
    capsys.readouterr()
    assert torch.equal(teacher_text_features(clip, NAMES, tmp_path / "blocked"), first)
    assert "are not kept for the next run: cannot create the folder" in capsys.readouterr().out
