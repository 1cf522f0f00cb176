"""CLIPLoRA against its definition: plain towers with W + gamma B A in place of W, float64; dropout, start, settings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_data import training_batch
from plain_clip import block, image_features, layers_of, quick_gelu, text_features
from tiny_runs import CLASSNAMES, build_in_float64, build_trainer, learned, set_position

from clip.clip import tokenize
from dassl.utils import UserError
from trainers.clip_lora import low_rank

PROMPTS = [f"a centered satellite photo of {name.replace('_', ' ')}." for name in CLASSNAMES]
SIDES = {"lora.text": "transformer.resblocks", "lora.visual": "visual.transformer.resblocks"}


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def logits_of(state, image, text):
    return state["logit_scale"].exp() * unit(image) @ unit(text).t()


def merged(state, theta, gamma):
    """The state of a CLIP whose query, key and value matrices are W + gamma B A."""
    state = dict(state)
    for side, prefix in SIDES.items():
        for layer in range(layers_of(state, prefix)):
            a, b = theta[f"{side}.{layer}.A"], theta[f"{side}.{layer}.B"]
            added = torch.cat([b[part] @ a[part] for part in range(3)])  # q, k, v: [3 d, d]
            name = f"{prefix}.{layer}.attn.in_proj_weight"
            state[name] = state[name] + gamma * added
    return state


@pytest.fixture
def wide(tiny_cfg, monkeypatch):
    """A trainer in float64 with learned tensors away from their start, and the state of its frozen CLIP."""

    def build(options=(), tower="vit"):
        torch.manual_seed(5)
        trainer = build_in_float64(tiny_cfg("CLIPLoRA", options, tower), monkeypatch)
        with torch.no_grad():
            for tensor in trainer.prompts.tensors().values():
                tensor.add_(0.1 * torch.randn(tensor.shape, dtype=torch.float64))
        return trainer, dict(trainer.prompts.clip.state_dict())

    return build


def doubled(number):
    batch = training_batch(number)
    return batch["img"].double(), batch["label"]


CASES = {
    "as published": ({}, "vit"),
    "rank 5": ({"RANK": 5, "LORA_ALPHA": 3.0}, "vit"),
    "rank 1, other sizes": ({"RANK": 1}, "more_tokens"),
    "in chunks": ({"TRAINER.TEXT_CHUNK": 3}, "more_tokens"),
}


@pytest.mark.parametrize("case", CASES)
def test_without_dropout_it_is_clip_with_the_merged_weights(case, wide):
    """Loss and gradients; the gradients of the plain towers are autograd's."""
    options, tower = CASES[case]
    trainer, state = wide(options | {"DROPOUT": 0.0}, tower)
    gamma = trainer.settings.LORA_ALPHA / trainer.settings.RANK
    images, labels = doubled(1)
    theta = {name: tensor.clone().requires_grad_() for name, tensor in trainer.theta().items()}
    plain = merged(state, theta, gamma)
    text, image = text_features(plain, tokenize(PROMPTS)), image_features(plain, images)
    loss = F.cross_entropy(logits_of(state, image, text), labels)
    expected = torch.autograd.grad(loss, list(theta.values()))
    gradients, reported = trainer.gradients_of(trainer.theta(), None, images, labels, None, None)
    assert abs(reported["loss"] - loss).item() < 1e-10
    for name, true in zip(theta, expected, strict=True):
        assert true.norm() > 1e-8, name
        assert (gradients[name] - true).norm() < 1e-8 * true.norm(), name
    with torch.no_grad():
        assert (trainer.prompts.logits(trainer.theta(), images) - logits_of(state, image, text)).abs().max() < 1e-9


def with_dropout(state, prefix, layer, theta, side, kept, gamma, p, x, mask):
    """One block whose projections see gamma B A of what dropout keeps of ln_1(x), times 1 / (1 - p)."""
    name = f"{prefix}.{layer}"
    u = F.layer_norm(x, x.shape[-1:], state[f"{name}.ln_1.weight"], state[f"{name}.ln_1.bias"])
    a, b = theta[f"{side}.{layer}.A"], theta[f"{side}.{layer}.B"]
    parts = [gamma * (u * kept[layer, part] / (1 - p)) @ a[part].t() @ b[part].t() for part in range(3)]
    # block() projects u alone: the rest goes in as a row's own bias, so it is written out here
    d, heads = x.shape[-1], x.shape[-1] // 64
    weight, bias = state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
    q, k, v = (
        (u @ w.t() + c + added).unflatten(-1, (heads, 64)).transpose(1, 2)
        for w, c, added in zip(weight.split(d), bias.split(d), parts, strict=True)
    )
    scores = q @ k.mT / 8
    attended = ((scores if mask is None else scores + mask).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + attended @ state[f"{name}.attn.out_proj.weight"].t() + state[f"{name}.attn.out_proj.bias"]
    h = F.layer_norm(x, x.shape[-1:], state[f"{name}.ln_2.weight"], state[f"{name}.ln_2.bias"])
    h = quick_gelu(h @ state[f"{name}.mlp.c_fc.weight"].t() + state[f"{name}.mlp.c_fc.bias"])
    return x + h @ state[f"{name}.mlp.c_proj.weight"].t() + state[f"{name}.mlp.c_proj.bias"]


def test_dropout_is_its_definition(wide):
    """Masks of their own for q, k and v of every block, for the image tower of a drawn step."""
    trainer, state = wide({"DROPOUT": 0.4})
    images, _ = doubled(1)
    kept, _ = trainer.prompts.draw_dropout(images)
    theta, p = trainer.theta(), 0.4
    gamma = trainer.settings.LORA_ALPHA / trainer.settings.RANK
    kernel = state["visual.conv1.weight"]
    x = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + state["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    prefix = SIDES["lora.visual"]
    for layer in range(layers_of(state, prefix)):
        plain = block(state, f"{prefix}.{layer}", x, None, quick_gelu)
        x = with_dropout(state, prefix, layer, theta, "lora.visual", kept.double(), gamma, p, x, None)
        assert (x - plain).abs().max() > 1e-4
    x = F.layer_norm(x[:, 0], x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    found = trainer.prompts.image_features(theta, images, kept)
    assert (found - x @ state["visual.proj"]).abs().max() < 1e-9


def test_dropout_of_the_text_tower(wide):
    """A single class: its rows are those of a plain sentence, so that the masks can be laid over them."""
    trainer, state = wide({"DROPOUT": 0.4, "TRAINER.TEXT_CHUNK": 1})
    images, _ = doubled(1)
    _, chunks = trainer.prompts.draw_dropout(images)
    theta, gamma = trainer.theta(), trainer.settings.LORA_ALPHA / trainer.settings.RANK
    prefix = SIDES["lora.text"]
    found = trainer.prompts.text_features(theta, chunks)
    for number, (prompt, kept) in enumerate(zip(PROMPTS, chunks, strict=True)):
        tokens = tokenize(prompt)
        end = int(tokens.argmax())
        assert kept.shape[3] == end + 1
        x = state["token_embedding.weight"][tokens[:, : end + 1]] + state["positional_embedding"][: end + 1]
        mask = torch.full((end + 1, end + 1), float("-inf"), dtype=x.dtype).triu(1)
        for layer in range(layers_of(state, prefix)):
            x = with_dropout(state, prefix, layer, theta, "lora.text", kept.double(), gamma, 0.4, x, mask)
        x = F.layer_norm(x[:, end], x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
        assert (found[number] - x[0] @ state["text_projection"]).abs().max() < 1e-9


def test_dropout_is_drawn_in_its_order(tiny_cfg):
    """The image tower first, block by block, then the text tower; a share of 1 - DROPOUT is kept."""
    trainer = build_trainer(tiny_cfg("CLIPLoRA", {"TRAINER.TEXT_CHUNK": 4}))
    batch = training_batch(0)
    torch.manual_seed(3)
    *_, image, text = trainer.parse_batch_train(batch)
    torch.manual_seed(3)
    again = [torch.empty(part.shape, dtype=torch.bool).bernoulli_(0.75) for part in (image, *text)]
    assert all(map(torch.equal, (image, *text), again)) and len(text) == 2
    assert image.float().mean() == pytest.approx(0.75, abs=0.01)
    assert not any(torch.equal(image[0, 0], other) for other in (image[0, 1], image[0, 2], image[1, 0]))


def test_dropout_works_in_training_alone(tiny_cfg):
    trainer, batch = build_trainer(tiny_cfg("CLIPLoRA")), training_batch(0)
    for tensor in trainer.theta().values():
        tensor.add_(0.1)
    before = torch.get_rng_state()
    trainer.set_model_mode("eval")
    with torch.no_grad():
        first = trainer.model_inference(batch["img"])
        assert torch.equal(trainer.model_inference(batch["img"]), first)
    assert torch.equal(torch.get_rng_state(), before)
    theta = trainer.theta()
    steps = [trainer.objective(theta, *trainer.parse_batch_train(batch))[0] for _ in range(2)]
    assert steps[0] != steps[1] and not torch.equal(torch.get_rng_state(), before)


def test_it_starts_as_zero_shot_clip(tiny_cfg):
    """B is 0: text features to the last bit; image features go by another form of attention, equal to rounding."""
    own, zero_shot = (build_trainer(tiny_cfg(name)) for name in ("CLIPLoRA", "ZeroshotCLIP"))
    image, theta = training_batch(0)["img"], own.theta()
    assert all(bool(tensor.any()) == name.endswith(".A") for name, tensor in theta.items())
    clip = own.prompts.clip
    with torch.no_grad():
        assert torch.equal(own.prompts.text_features(theta), clip.encode_text(tokenize(PROMPTS)))
        tower = clip.visual.tower(image, 0, 0)
        assert torch.equal(own.prompts.image_features(theta, image), tower.output(tower.before[:1, :0])[:, 0])
        for each in (own, zero_shot):
            each.set_model_mode("eval")
        expected = zero_shot.model_inference(image)
        torch.testing.assert_close(own.model_inference(image), expected, rtol=0, atol=5e-5)


def test_a_starts_within_its_bounds(tiny_cfg):
    """Kaiming's uniform distribution of slope sqrt(5) over d inputs: within 1 / sqrt(d), of variance 1 / (3 d)."""
    theta = build_trainer(tiny_cfg("CLIPLoRA", {"RANK": 64})).theta()
    for name, tensor in theta.items():
        if name.endswith(".A"):
            d = tensor.shape[-1]
            assert tensor.shape == (3, 64, d) and tensor.abs().max() <= d**-0.5
            assert tensor.var().item() == pytest.approx(1 / (3 * d), rel=0.05)


def test_a_step_changes_a_and_b_alone(tiny_cfg):
    trainer = build_trainer(tiny_cfg("CLIPLoRA", {"OPTIM.NAME": "adamw"}))
    frozen = {name: value.clone() for name, value in trainer.prompts.clip.state_dict().items()}
    start = learned(trainer)
    for number in range(2):  # A gets a gradient once B has left 0
        set_position(trainer, number)
        trainer.forward_backward(training_batch(number))
    assert all(torch.equal(value, frozen[name]) for name, value in trainer.prompts.clip.state_dict().items())
    assert all(not torch.equal(value, start[name]) for name, value in learned(trainer).items())
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in trainer.prompts.tensors().values())


def test_low_rank_in_half_precision_rounds_its_result_alone():
    torch.manual_seed(0)
    a, b, u = torch.randn(3, 2, 8), torch.randn(3, 8, 2), torch.randn(2, 5, 8).bfloat16()
    exact = low_rank(0.5, None, a.double(), b.double(), u)
    assert exact.dtype == torch.bfloat16 and torch.equal(low_rank(0.5, None, a, b, u), exact)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"RANK": 0}, ["RANK is 0"]),
        ({"LORA_ALPHA": 0.0}, ["LORA_ALPHA is 0.0", "above 0"]),
        ({"DROPOUT": 1.0}, ["DROPOUT is 1.0", "at least 0 and below 1"]),
    ],
)
def test_settings_that_do_not_fit_are_named(options, words, tiny_cfg):
    with pytest.raises(UserError) as error:
        build_trainer(tiny_cfg("CLIPLoRA", options))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_resnet_has_no_blocks_to_adapt(tiny_cfg):
    with pytest.raises(UserError, match="choose a ViT"):
        build_trainer(tiny_cfg("CLIPLoRA", tower="rn"))


def test_a_checkpoint_of_another_rank_is_refused(tiny_cfg, tmp_path):
    cfg = tiny_cfg("CLIPLoRA", {"RANK": 3, "OPTIM.MAX_EPOCH": 1})
    build_trainer(cfg).train()
    (file,) = (tmp_path / "out" / "lora").glob("model.pth.tar-1")
    cfg = tiny_cfg("CLIPLoRA", {"MODEL.INIT_WEIGHTS": str(file)})
    cfg.OUTPUT_DIR = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"lora\.text\.0\.A has shape \(3, 3, 64\), but this configuration needs"):
        build_trainer(cfg)
