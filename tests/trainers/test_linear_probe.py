"""LinearProbe against its definition, in float64 on plainly written towers; new classes, CLAP's penalty."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_data import training_batch
from plain_clip import image_features, text_features
from tiny_runs import CLASSNAMES, build_in_float64, build_trainer, learned, set_position

from clip.clip import tokenize
from dassl.utils import UserError
from deploy import load_classifier

WEIGHT = "classifier.weight"
TEMPLATE = "a centered satellite photo of {}."


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def zero_shot(state):
    return unit(text_features(state, tokenize([TEMPLATE.format(name.replace("_", " ")) for name in CLASSNAMES])))


@pytest.fixture
def wide(tiny_cfg, monkeypatch):
    """A trainer in float64, and the state of its frozen CLIP."""

    def build(options=(), tower="vit"):
        trainer = build_in_float64(tiny_cfg("LinearProbe", options, tower), monkeypatch)
        state = dict(trainer.prompts.clip.state_dict())
        return trainer, state

    return build


def test_it_starts_from_the_zero_shot_features(wide):
    trainer, state = wide()
    # learned tensors begin in float32
    torch.testing.assert_close(trainer.theta()[WEIGHT], zero_shot(state), rtol=0, atol=1e-7)


def test_it_starts_as_zero_shot_clip(tiny_cfg):
    image = training_batch(0)["img"]
    own, other = (build_trainer(tiny_cfg(name)) for name in ("LinearProbe", "ZeroshotCLIP"))
    for each in (own, other):
        each.set_model_mode("eval")
    with torch.no_grad():
        torch.testing.assert_close(own.model_inference(image), other.model_inference(image), rtol=0, atol=2e-5)


@pytest.mark.parametrize("clap", [0.0, 0.7])
def test_loss_and_gradient_are_the_definition(wide, clap):
    trainer, state = wide({"CLAP_WEIGHT": clap})
    images, labels = training_batch(1)["img"].double(), training_batch(1)["label"]
    text = trainer.prompts.zero_shot.double()
    torch.testing.assert_close(text, zero_shot(state), rtol=0, atol=1e-12)
    torch.manual_seed(2)
    weight = (text + 0.1 * torch.randn_like(text)).requires_grad_()
    features = unit(image_features(state, images))
    lengths = weight.norm(dim=-1)  # w_c counts by its direction alone
    logits = state["logit_scale"].exp() * (features @ weight.t()) / lengths
    loss = F.cross_entropy(logits, labels)
    if clap:
        multipliers = by_hand_multipliers(trainer, state)
        assert multipliers.min() > 0 and multipliers.max() - multipliers.min() > 1e-4
        loss = loss + clap * (multipliers * (weight - text).square().sum(dim=-1)).sum()
    (expected,) = torch.autograd.grad(loss, weight)
    gradients, reported = trainer.gradients_of({WEIGHT: weight.detach()}, None, images, labels)
    assert abs(reported["loss"] - loss).item() < 1e-10 and ("penalty" in reported) == (clap > 0)
    assert (gradients[WEIGHT] - expected).norm() < 1e-9 * expected.norm()
    assert (weight - trainer.theta()[WEIGHT]).norm() > 0.1  # the penalty's share is not zero at this point


def by_hand_multipliers(trainer, state):
    """Mean zero-shot probability of each class over its own training images, image by image."""
    to_tensor, text, seen = trainer.test_loader.dataset.transform, zero_shot(state), {}
    from dassl.utils.images import read_image

    for item in trainer.dm.dataset.train_x:
        features = unit(image_features(state, to_tensor(read_image(item.impath))[None].double()))
        probability = (state["logit_scale"].exp() * features @ text.t()).softmax(dim=-1)[0, item.label]
        seen.setdefault(item.label, []).append(probability)
    return torch.stack([sum(seen[label]) / len(seen[label]) for label in range(len(text))])


def test_the_multipliers_follow_no_augmentation_and_draw_nothing(tiny_cfg):
    """They are the same whenever they are computed, so that a resumed run continues with them."""
    trainer = build_trainer(
        tiny_cfg("LinearProbe", {"CLAP_WEIGHT": 1.0, "INPUT.TRANSFORMS": ("random_flip", "normalize")})
    )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trainer.multipliers
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():  # nor do they depend on what was learned so far
        trainer.prompts.tensors()[WEIGHT].mul_(-1)
    del trainer.multipliers
    assert torch.equal(trainer.multipliers, first)


def test_only_the_weights_learn(tiny_cfg):
    trainer = build_trainer(tiny_cfg("LinearProbe"))
    frozen = {name: value.clone() for name, value in trainer.prompts.clip.state_dict().items()}
    start = learned(trainer)
    assert list(start) == [WEIGHT] and start[WEIGHT].dtype == torch.float32
    set_position(trainer, 0)
    trainer.forward_backward(training_batch(0))
    assert all(torch.equal(value, frozen[name]) for name, value in trainer.prompts.clip.state_dict().items())
    assert not torch.equal(learned(trainer)[WEIGHT], start[WEIGHT])


def test_a_resnet_will_do(tiny_cfg):
    trainer = build_trainer(tiny_cfg("LinearProbe", tower="rn"))
    set_position(trainer, 0)
    assert trainer.forward_backward(training_batch(0))["loss"] > 0


# --- other classes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def base_run(tiny_cfg):
    """A trained run on the base classes, the first four of the seven."""
    cfg = tiny_cfg("LinearProbe", {"DATASET.SUBSAMPLE_CLASSES": "base", "OPTIM.LR": 0.5})
    trainer = build_trainer(cfg)
    trainer.train()
    return trainer


def test_new_classes_have_their_zero_shot_features(base_run, tiny_cfg, capsys, tmp_path):
    cfg = tiny_cfg("LinearProbe", {"DATASET.SUBSAMPLE_CLASSES": "new", "OPTIM.LR": 0.5})
    cfg.OUTPUT_DIR = str(tmp_path / "new")
    trainer = build_trainer(cfg)
    start = learned(trainer)[WEIGHT]
    capsys.readouterr()
    trainer.load_model(base_run.output_dir)
    said = capsys.readouterr().out
    assert "LinearProbe: 0 of 3 classes have learned weights; the other 3 keep their zero-shot text features: " in said
    assert CLASSNAMES[-1] in said and torch.equal(learned(trainer)[WEIGHT], start)
    assert 0 <= trainer.test() <= 100


def test_all_classes_have_the_weights_that_there_are(base_run, tiny_cfg, capsys, tmp_path):
    cfg = tiny_cfg("LinearProbe", {"OPTIM.LR": 0.5})
    cfg.OUTPUT_DIR = str(tmp_path / "all")
    trainer = build_trainer(cfg)
    start = learned(trainer)[WEIGHT]
    trainer.load_model(base_run.output_dir)
    assert "LinearProbe: 4 of 7 classes have learned weights; the other 3 keep" in capsys.readouterr().out
    after, base = learned(trainer)[WEIGHT], learned(base_run)[WEIGHT]
    assert torch.equal(after[:4], base) and torch.equal(after[4:], start[4:])
    assert not torch.equal(after[:4], start[:4])
    # as start values too
    cfg = tiny_cfg("LinearProbe", {"MODEL.INIT_WEIGHTS": str(next(Path(base_run.output_dir).glob("classifier/*-2")))})
    cfg.OUTPUT_DIR = str(tmp_path / "init")
    assert torch.equal(learned(build_trainer(cfg))[WEIGHT], after)


def test_prediction_and_export_know_the_classes_by_name(base_run, tmp_path, capsys):
    """Given in another order and with a name that was never trained on, each class keeps its own weights."""
    paths = [item.impath for item in base_run.dm.dataset.test]
    own = load_classifier(base_run.output_dir)
    names = ["annual crop land", *reversed(CLASSNAMES[:4])]
    other = load_classifier(base_run.output_dir, classnames=names)
    assert "4 of 5 classes have learned weights" in capsys.readouterr().out
    images = torch.stack([base_run.test_loader.dataset[i]["img"] for i in range(len(paths))])
    expected, found = own.logits(images), other.logits(images)
    torch.testing.assert_close(found[:, 1:].flip(1), expected, rtol=0, atol=1e-4)


def test_a_checkpoint_without_its_class_names(base_run, tiny_cfg, tmp_path):
    """The number of classes fits, but not which they are: that cannot be told apart without the list."""
    folder = tmp_path / "alone" / "classifier"
    folder.mkdir(parents=True)
    (file,) = Path(base_run.output_dir).glob("classifier/*-2")
    shutil.copy(file, folder)

    def trainer(path, **options):
        return build_trainer(tiny_cfg("LinearProbe", {"MODEL.INIT_WEIGHTS": str(path)} | options))

    same = trainer(folder / file.name, **{"DATASET.SUBSAMPLE_CLASSES": "base"})
    assert torch.equal(learned(same)[WEIGHT], learned(base_run)[WEIGHT])  # its digest says that they are the same
    with pytest.raises(UserError, match="classnames.json"):
        trainer(folder / file.name)
    (folder.parent / "classnames.json").write_text(json.dumps(["a", "b", "c", "d"]))
    with pytest.raises(UserError, match="class names of the checkpoint's training"):
        trainer(folder / file.name)


def test_as_many_names_as_rows(base_run):
    """Four rows for five names: by their places, they would be another class's."""
    state = {WEIGHT: torch.zeros(4, 96)}
    folder = Path(base_run.output_dir)
    (folder / "classnames.json").write_text(json.dumps(["a", "b", "c", "d", "e"]))
    with pytest.raises(UserError, match="classnames.json has 5 class names, but classifier.weight has 4 rows"):
        base_run.state_for_own_classes(state, str(folder), None)


def test_class_specific_context_does_not_start_from_other_classes(tiny_cfg, tmp_path):
    """The same number of classes, other names: a context for each class means nothing there."""
    cfg = tiny_cfg("CoOp", {"CSC": True, "DATASET.SUBSAMPLE_CLASSES": "new"})
    trainer = build_trainer(cfg)
    trainer.train()
    (file,) = Path(cfg.OUTPUT_DIR).glob("prompt_learner/*-2")
    cfg = tiny_cfg("CoOp", {"CSC": True, "MODEL.INIT_WEIGHTS": str(file)})
    cfg.OUTPUT_DIR = str(tmp_path / "other")
    with pytest.raises(UserError, match="class-specific"):
        build_trainer(cfg)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_the_weight_of_the_penalty_has_a_range(value, tiny_cfg):
    with pytest.raises(UserError, match="CLAP_WEIGHT"):
        build_trainer(tiny_cfg("LinearProbe", {"CLAP_WEIGHT": value}))
