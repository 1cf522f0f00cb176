"""The pre-training script on a tiny model: three steps, files, determinism, errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clip
from dassl.utils import UserError
from shapes_world.mixture import GLYPH_STYLE_SHARES, SHAPE_STYLE_SHARES, draw_example
from shapes_world.pretrain import PretrainSettings, contrastive_loss, main, pretrain
from shapes_world.styles import STYLES

TINY = PretrainSettings(
    seed=5, images=12, epochs=1, batch_size=4, warmup_steps=1, embed_dim=16, vision_width=64, vision_layers=1,
    text_width=64, text_layers=1, report_every=1, evaluate_every=2, evaluated_per_class=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, pretrain(TINY, folder, workers=1)


def test_three_steps_write_weights_that_clip_loads(run):
    folder, _ = run
    assert sorted(path.name for path in folder.iterdir()) == ["pretrain_log.txt", "vit_shapes.safetensors"]
    tensors = load_file(folder / "vit_shapes.safetensors")
    rows = tensors["token_embedding.rows"]
    assert rows.dtype == torch.int64 and tensors["token_embedding.weight"].shape == (len(rows), 64)
    assert all(value.dtype == torch.float16 for name, value in tensors.items() if name != "token_embedding.rows")
    model, _ = clip.load(str(folder / "vit_shapes.safetensors"), device="cpu")
    assert torch.equal(model.token_embedding.weight[rows].half(), tensors["token_embedding.weight"])
    assert model.encode_image(torch.zeros(2, 3, 48, 48)).shape == (2, 16)
    assert model.encode_text(clip.tokenize(["red ring"])).shape == (1, 16)


def test_log_holds_settings_steps_and_the_returned_accuracies(run):
    folder, accuracies = run
    log = (folder / "pretrain_log.txt").read_text()
    assert "'seed': 5" in log and "step 3/3 loss" in log and "zero-shot so far: Shapes base" in log
    assert set(accuracies) == {
        "Shapes base", "Shapes new", "Shapes", "Glyphs", "ShapesSketch", "ShapesNight", "ShapesCluttered",
    }  # fmt: skip
    for name, accuracy in accuracies.items():
        assert f"zero-shot {name}: {accuracy:.1f}%" in log


def test_training_is_repeatable_and_interim_evaluation_does_not_change_it(run, tmp_path):
    first = load_file(run[0] / "vit_shapes.safetensors")
    pretrain(dataclasses.replace(TINY, evaluate_every=100), tmp_path / "again", workers=1)
    again = load_file(tmp_path / "again" / "vit_shapes.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_pretraining_pictures_are_decided_by_seed_and_index():
    first, again, other = (draw_example(seed, 7) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0]) and first[1:] == again[1:]
    assert not np.array_equal(first[0], other[0])


def test_style_shares_add_up_and_the_downstream_styles_are_rare():
    for shares in (SHAPE_STYLE_SHARES, GLYPH_STYLE_SHARES):
        assert sum(shares.values()) == pytest.approx(1)
        assert set(shares) <= set(STYLES)
    assert max(SHAPE_STYLE_SHARES[name] for name in ("photo", "sketch", "night", "cluttered")) <= 0.1
    assert GLYPH_STYLE_SHARES["sign"] <= 0.2


def test_loss_is_that_of_uniform_and_of_perfect_guesses():
    same, eye = torch.ones(8, 3), torch.eye(8)
    assert contrastive_loss(same, same, torch.tensor(1.0)).item() == pytest.approx(np.log(8), abs=1e-6)
    assert contrastive_loss(eye * 5, eye, torch.tensor(100.0)).item() == pytest.approx(0, abs=1e-6)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="^cannot write into .*--out"):
        main(["--out", str(tmp_path / "file" / "below")])
