"""CoPrompt by its definition, and the files of descriptions that it learns from.

Expected values: the formulas of the paper on `plain_clip`, in float64; sizes differ from those of the recordings.
"""

from __future__ import annotations

import json
import random

import pytest
import torch
import torch.nn.functional as F
from by_definition import LIMIT, check_objective
from golden_data import COMPACT, training_batch
from plain_clip import image_features, prompted_text_features, similarity, text_features, unit
from tiny_runs import CLASSNAMES, build_trainer

from clip.clip import tokenize
from dassl.utils import UserError, write_json
from tools.describe_classes import describe
from trainers.coprompt import distance

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


@pytest.mark.parametrize("kind, options", [("mse", {"PROMPT_DEPTH": 2}), ("cosine", {"PROMPT_DEPTH": 1, "N_CTX": 3})])
@pytest.mark.parametrize("chunk", [0, 3])
def test_coprompt_is_its_definition(kind, options, chunk, wide):
    options = {"DISTILL": kind, "W": 7.0, "TRAINER.TEXT_CHUNK": chunk} | options
    trainer, state = wide("CoPrompt", options)
    tokens = tokenize([f"a photo of a {name}." for name in NAMES])
    descriptions = json.loads((COMPACT / "coprompt_descriptions.json").read_text())
    random.seed(3)
    number = random.randint(0, 3)
    sentence = unit(text_features(state, tokenize([descriptions[name][number] for name in NAMES])))
    batch = training_batch(1)
    images, second = batch["img"].double(), batch["img2"].double()
    teacher = unit(image_features(state, second))

    def adapted(theta, name, share, features):
        hidden = (features @ theta[f"{name}.fc.0.weight"].t()).relu()
        return share * (hidden @ theta[f"{name}.fc.2.weight"].t()).relu() + (1 - share) * features

    def loss(theta):
        deep = [theta[name] for name in theta if "compound_prompts_text" in name]
        text = prompted_text_features(state, tokens, theta["prompt_learner.ctx"], deep)
        deeper = [f"prompt_learner.compound_prompt_projections.{i}" for i in range(len(deep))]
        visual = [
            rows @ theta[f"{name}.weight"].t() + theta[f"{name}.bias"]
            for name, rows in zip(["prompt_learner.proj", *deeper], [theta["prompt_learner.ctx"], *deep], strict=True)
        ]
        text = adapted(theta, "adapter_text", 0.2, text)
        image = adapted(theta, "adapter_image", 0.1, image_features(state, images, visual))
        pairs = ((unit(text), sentence), (unit(image), teacher))
        if kind == "mse":
            d = sum(((ours - fixed) ** 2).mean() for ours, fixed in pairs)
        else:
            d = sum(1 - (ours * fixed).sum(dim=-1).mean() for ours, fixed in pairs)
        return F.cross_entropy(similarity(state, image, text), batch["label"]) + 7 * d

    random.seed(3)
    image, label, view, drawn = trainer.parse_batch_train(batch)
    assert (drawn - sentence).abs().max() < LIMIT
    check_objective(trainer, (image.double(), label, view.double(), drawn), loss)


def test_both_forms_of_two_views_are_taken(tiny_cfg):
    """Dassl's loader gives a list with K_TRANSFORMS 2, and img2 with two transforms."""
    trainer, batch = build_trainer(tiny_cfg("CoPrompt")), training_batch(0)
    for form in (batch, {"img": [batch["img"], batch["img2"]], "label": batch["label"]}):
        image, _, second, _ = trainer.parse_batch_train(form)
        assert torch.equal(image, batch["img"]) and torch.equal(second, batch["img2"])
    loaded = next(iter(trainer.train_loader_x))
    assert len(trainer.parse_batch_train(loaded)[2]) == 4


def test_distances_of_equal_features_are_zero():
    features = unit(torch.randn(5, 6, dtype=torch.float64))
    assert abs(distance("cosine", features, features).item()) < 1e-15
    assert distance("mse", features, features) == 0


BAD_DESCRIPTIONS = {
    "a class is missing": (lambda good: good.pop("face"), ["'face'"]),
    "unequal counts": (lambda good: good["wild cat"].pop(), ["'wild_cat'", "3 sentences", "4 for 'face'"]),
    "an empty list": (lambda good: good.update(face=[]), ["'face'", "at least one sentence"]),
    "not sentences": (lambda good: good.update(face=[1, 2, 3, 4]), ["'face'", "sentence"]),
    "not a list": (lambda good: good.update(face="a face"), ["'face'", "list"]),
    "one class twice": (lambda good: good.update(wild_cat=["a", "b", "c", "d"]), ["'wild cat' twice"]),
    "too long": (lambda good: good["face"].insert(0, "face " * 90) or good["face"].pop(), ["too long"]),
}


@pytest.mark.parametrize("case", BAD_DESCRIPTIONS)
def test_bad_descriptions_are_one_line(case, tiny_cfg, tmp_path):
    change, words = BAD_DESCRIPTIONS[case]
    content = json.loads((COMPACT / "coprompt_descriptions.json").read_text())
    change(content)
    write_json(content, tmp_path / "descriptions.json")
    check_descriptions_error(tiny_cfg, str(tmp_path / "descriptions.json"), words)


@pytest.mark.parametrize(
    "text, says", [("{", "not valid JSON"), ("[]", "{class name: [sentences]}"), (None, "missing.json")]
)
def test_an_unusable_descriptions_file_is_one_line(text, says, tiny_cfg, tmp_path):
    path = tmp_path / "missing.json"
    if text is not None:
        path.write_text(text)
    check_descriptions_error(tiny_cfg, str(path), [says])


def check_descriptions_error(tiny_cfg, path, words):
    """Training ends before its first epoch; an evaluation needs no descriptions."""
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": path}))
    with pytest.raises(UserError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in [*words])
    trainer.test()


def test_a_run_does_not_continue_with_other_descriptions(tiny_cfg, tmp_path):
    """Found by their content: a copy elsewhere is as good, an edited file is not."""
    path, copy = tmp_path / "descriptions.json", tmp_path / "copy.json"
    content = json.loads((COMPACT / "coprompt_descriptions.json").read_text())
    for each in (path, copy):
        write_json(content, each)
    epochs = {"OPTIM.MAX_EPOCH": 1}
    build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": str(path)} | epochs)).train()
    build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": str(copy)} | epochs)).train()  # nothing is left to train
    content["face"][0] = "no face at all"
    write_json(content, path)
    again = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": str(path)} | epochs))
    with pytest.raises(UserError, match=r"TRAINER.COPROMPT.DESCRIPTIONS is .*\(SHA-256 .* there, .*\(SHA-256 .* here"):
        again.train()


def test_without_descriptions_the_remedy_is_named(tiny_cfg):
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": ""}))
    with pytest.raises(UserError, match="DESCRIPTIONS is empty.*python -m tools.describe_classes"):
        trainer.train()


def test_descriptions_from_templates_have_the_published_form(tiny_cfg, tmp_path):
    content = describe(CLASSNAMES, ["a photo of a {}.", "art of the {}."])
    assert content["wild cat"] == ["a photo of a wild cat.", "art of the wild cat."] and len(content) == 7
    write_json(content, tmp_path / "d.json")
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": str(tmp_path / "d.json")}))
    assert trainer.descriptions.shape == (2, 7, 96)
