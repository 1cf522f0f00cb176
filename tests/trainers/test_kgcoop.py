"""KgCoOp by its definition: cross-entropy, and the distance to the features of the data set's template.

Expected values: both terms written out on features of the plain towers; the published list of templates.
"""

from __future__ import annotations

import plain_clip
import pytest
import torch
import torch.nn.functional as F
from golden_data import images
from plain_clip import unit
from tiny_runs import CLASSNAMES, learned, load_tiny_clip, set_position

from clip.clip import tokenize
from dassl.utils import UserError, save_checkpoint
from trainers.core.templates import CUSTOM_TEMPLATES, method_template

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


def step(trainer):
    set_position(trainer, 0)
    return trainer.forward_backward({"img": images()["train_images"][0], "label": images()["train_labels"][0]})


def test_both_terms_by_hand(tiny_trainer, backbones):
    """EuroSAT's template for the teacher, "a photo of a" for the context."""
    state = load_tiny_clip(backbones["vit"]).state_dict()
    texts = [[f"{words} {name}." for name in NAMES] for words in ("a photo of a", "a centered satellite photo of")]
    text, teacher = (unit(plain_clip.text_features(state, tokenize(some))) for some in texts)
    image = unit(plain_clip.image_features(state, images()["train_images"][0]))
    cross_entropy = F.cross_entropy(state["logit_scale"].exp() * image @ text.t(), images()["train_labels"][0])
    score = (1 - F.cosine_similarity(text, teacher)).mean()
    for weight in (8.0, 2.5):
        reported = step(tiny_trainer("KgCoOp", {"W": weight}))
        assert reported["loss_base"] == pytest.approx(cross_entropy.item(), abs=1e-5)
        assert reported["loss_text"] == pytest.approx(weight * score.item(), abs=1e-4) and score > 0.01
        assert reported["loss"] == pytest.approx((cross_entropy + weight * score).item(), abs=1e-4)


def test_without_weight_it_is_coop(tiny_trainer):
    ours, coop = tiny_trainer("KgCoOp", {"W": 0.0}), tiny_trainer("CoOp", {"CTX_INIT": "a photo of a"})
    start = learned(coop)["ctx"]
    for trainer in (ours, coop):
        step(trainer)
    assert torch.equal(learned(ours)["ctx"], learned(coop)["ctx"])
    assert not torch.equal(learned(ours)["ctx"], start)


def test_words_set_the_length(tiny_trainer):
    assert learned(tiny_trainer("KgCoOp", {"N_CTX": 16}))["ctx"].shape == (4, 64)
    assert learned(tiny_trainer("KgCoOp", {"N_CTX": 6, "CTX_INIT": ""}))["ctx"].shape == (6, 64)
    assert learned(tiny_trainer("KgCoOp", {"CSC": True}))["ctx"].shape == (7, 4, 64)


def test_templates():
    """Published: CoOp's list, except for the textures."""
    differing = {name for name in CUSTOM_TEMPLATES if method_template("kgcoop", name) != CUSTOM_TEMPLATES[name]}
    assert differing == {"DescribableTextures"}
    assert method_template("kgcoop", "DescribableTextures") == "a photo of a {}, a type of texture."
    assert method_template("kgcoop", "Mine") == "a photo of a {}."
    published = [method_template("prograd", name) for name in CUSTOM_TEMPLATES]
    assert published.count("a photo of a {}.") == 8 and all(text.endswith(" {}.") for text in published)


def test_published_checkpoints_contain_a_network_that_nothing_uses(tiny_trainer, tmp_path):
    """`bias_vectors` and `meta_net.linear1`, of 512 rows on any model. A checkpoint of CoCoOp is another thing."""
    trainer = tiny_trainer("KgCoOp")
    state = {"ctx": torch.randn(4, 64), "bias_vectors": torch.zeros(1, 512), "token_prefix": torch.zeros(7, 1, 64)}
    state |= {"meta_net.linear1.weight": torch.zeros(512, 512), "meta_net.linear1.bias": torch.zeros(512)}
    save_checkpoint({"state_dict": state, "epoch": 100}, str(tmp_path / "published" / "prompt_learner"))
    trainer.load_model(str(tmp_path / "published"), epoch=100)
    assert torch.equal(learned(trainer)["ctx"], state["ctx"])
    state["meta_net.linear2.weight"] = torch.zeros(64, 512)
    save_checkpoint({"state_dict": state, "epoch": 100}, str(tmp_path / "cocoop" / "prompt_learner"))
    with pytest.raises(UserError, match=r"prompt tensor meta_net\.linear2\.weight, which .* does not have"):
        trainer.load_model(str(tmp_path / "cocoop"), epoch=100)
