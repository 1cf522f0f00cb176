"""Names of Dassl and its forks that trainer files use. Expected values: by hand, from the papers' definitions."""

from __future__ import annotations

import importlib
import io
import random
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from dassl.data.transforms.randaugment import RandAugment, RandAugment2, RandAugmentFixMatch
from dassl.engine import TRAINER_REGISTRY, TrainerBase, TrainerX, build_trainer
from dassl.modeling import BACKBONE_REGISTRY, NETWORK_REGISTRY, build_backbone, build_network
from dassl.modeling.backbone.resnet import resnet18, resnet18_ms_l12, resnet18_ms_l123
from dassl.modeling.ops import (
    MixStyle,
    crossdomain_mixstyle,
    deactivate_mixstyle,
    run_with_mixstyle,
    run_without_mixstyle,
)
from dassl.utils import Logger, UnknownNameError, UserError, adjust_learning_rate, set_bn_to_eval

NAMES = """
dassl.engine.trainer SummaryWriter
dassl.data.data_manager build_transform
dassl.modeling build_network NETWORK_REGISTRY
dassl.modeling.network build_network
dassl.modeling.ops MixStyle activate_mixstyle random_mixstyle
dassl.modeling.backbone.resnet ResNet resnet18 resnet34 resnet50 resnet101 resnet152 resnet18_ms_l1 resnet50_ms_l123
dassl.data.transforms.transforms RandAugment RandAugment2 RandAugmentFixMatch Cutout
dassl.utils.torchtools adjust_learning_rate set_bn_to_eval
dassl.utils.logger Logger setup_logger
"""


@pytest.mark.parametrize("line", NAMES.strip().splitlines())
def test_the_names_are_where_trainer_files_look(line):
    module, *names = line.split()
    for name in names:
        assert callable(getattr(importlib.import_module(module), name)) or name.endswith("_REGISTRY")


def test_names_that_are_slow_to_import_come_when_they_are_asked_for():
    code = "import sys, dassl.engine.trainer, dassl.data.data_manager as d; print('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    import dassl.engine.trainer as trainer

    with pytest.raises(AttributeError, match="no attribute 'SumaryWriter'"):
        trainer.SumaryWriter  # noqa: B018


def test_networks_by_name(capsys):
    @NETWORK_REGISTRY.register()
    def tiny_generator(width=1):
        return nn.Linear(width, width)

    try:
        assert build_network("tiny_generator", width=3).in_features == 3
        assert "Network: tiny_generator" in capsys.readouterr().out
        with pytest.raises(UnknownNameError, match='unknown NETWORK "tiny_generatr"'):
            build_network("tiny_generatr")
    finally:
        NETWORK_REGISTRY.restore({})


# --- MixStyle --------------------------------------------------------------------------------------------------------


def statistics(x):
    return x.mean(dim=[2, 3]), (x.var(dim=[2, 3]) + 1e-6).sqrt()


def test_mixstyle_gives_mixtures_of_two_images_statistics():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64) * torch.arange(1, 7).view(6, 1, 1, 1) + 2
    mix = MixStyle(p=1.0, alpha=0.3)
    torch.manual_seed(1)
    lam = torch.distributions.Beta(0.3, 0.3).sample([6, 1]).double()
    partner = torch.randperm(6)
    torch.manual_seed(1)
    mixed = mix(x)
    mean, std = statistics(x)
    found_mean, _ = statistics(mixed)
    expected_std = lam * std + (1 - lam) * std[partner]
    torch.testing.assert_close(found_mean, lam * mean + (1 - lam) * mean[partner])
    torch.testing.assert_close(
        (mixed - found_mean[..., None, None]) / expected_std[..., None, None],
        (x - mean[..., None, None]) / std[..., None, None],
    )
    assert (mixed - x).abs().max() > 0.1


def test_the_statistics_are_constants_for_the_gradient():
    """So every value of an image has the same derivative, the ratio of the new deviation to the old one."""
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    mixed = MixStyle(p=1.0)(x)
    mixed.sum().backward()
    ratio = mixed.detach().std(dim=[2, 3]) / x.detach().std(dim=[2, 3])
    torch.testing.assert_close(x.grad, ratio[..., None, None].expand_as(x))


def test_partners_of_the_other_domain():
    mix = MixStyle(p=1.0)
    mix.apply(crossdomain_mixstyle)
    for _ in range(20):
        partners = mix._partners(8)
        assert set(partners[:4].tolist()) == {4, 5, 6, 7} and set(partners[4:].tolist()) == {0, 1, 2, 3}
    with pytest.raises(UserError, match='unknown mix "crossdomian"'):
        mix.update_mix_method("crossdomian")


def test_mixstyle_is_off_in_evaluation_where_it_is_switched_off_and_with_its_probability():
    x = torch.randn(4, 2, 3, 3)
    mix = MixStyle(p=1.0)
    assert mix.eval()(x) is x
    mix.train().apply(deactivate_mixstyle)
    assert mix(x) is x
    with run_with_mixstyle(mix, "crossdomain"):
        assert mix(x) is not x and mix.mix == "crossdomain"
    assert mix(x) is x
    mix.set_activation_status(True)
    with run_without_mixstyle(mix):
        assert mix(x) is x
    assert mix(x) is not x
    random.seed(0)
    mix.p = 0.25
    mixed = sum(mix(x) is not x for _ in range(1000))
    assert 200 < mixed < 300


# --- backbones, transforms, rates ------------------------------------------------------------------------------------


def test_resnets_compute_as_torchvisions_and_have_dassls_tensor_names():
    import torchvision

    published = torchvision.models.resnet18(weights=None).eval()
    ours = resnet18(pretrained=False).eval()
    state = {name: value for name, value in published.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(state)  # strict
    published.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), published(x)) and ours.out_features == 512
    mixed = resnet18_ms_l12(pretrained=False)
    mixed.load_state_dict(state)
    assert torch.equal(mixed.eval()(x), published(x))


def test_mixstyle_comes_after_the_named_stages():
    assert {"resnet18", "resnet18_ms_l1", "resnet50_ms_l12", "resnet101_ms_l123"} <= set(
        BACKBONE_REGISTRY.registered_names()
    )
    net = resnet18_ms_l123(pretrained=False).train()
    seen = []
    net.mixstyle.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    net(torch.randn(2, 3, 64, 64))
    assert seen == [64, 128, 256]
    assert build_backbone("resnet18_ms_l1", verbose=False, pretrained=False).ms_layers == ("layer1",)


def test_augmentations_of_dassls_names():
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    for transform in (RandAugment(2, 10), RandAugment2(1), RandAugmentFixMatch(2)):
        torch.manual_seed(0)
        results = {transform(image).tobytes() for _ in range(20)}
        assert len(results) > 3
    assert RandAugment(0, 10)(image).tobytes() == image.tobytes()
    assert RandAugment2(2, p=0.0)(image).tobytes() == image.tobytes()


def test_the_rate_of_an_epoch():
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}], 1
    )

    def rate(*arguments, **options):
        adjust_learning_rate(optimizer, *arguments, **options)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == second
        return first

    assert [rate(0.5, epoch) for epoch in (0, 19, 20, 40)] == pytest.approx([0.5, 0.5, 0.05, 0.005])
    assert [rate(1.0, epoch, stepsize=2, gamma=0.5) for epoch in (1, 2, 5)] == [1.0, 0.5, 0.25]
    linear = [rate(1.0, epoch, linear_decay=True, final_lr=0.2, max_epoch=10) for epoch in (0, 5, 10)]
    assert linear == pytest.approx([1.0, 0.6, 0.2])


def test_batch_norms_keep_their_statistics():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout()).train()
    net.apply(set_bn_to_eval)
    assert [module.training for module in net] == [True, False, True]
    net[:2](torch.randn(4, 1, 3, 3) + 5)
    assert torch.equal(net[1].running_mean, torch.zeros(2))


def test_dassls_logger(tmp_path, monkeypatch):
    console = io.StringIO()
    monkeypatch.setattr(sys, "stdout", console)
    with Logger(str(tmp_path / "new" / "log.txt")) as log:
        log.write("one line\n")
    log.write("behind the end\n")
    assert (tmp_path / "new" / "log.txt").read_text() == "one line\n"
    assert console.getvalue() == "one line\nbehind the end\n"
    Logger().write("console alone\n")
    assert console.getvalue().endswith("console alone\n")


# --- what forks of Dassl added ---------------------------------------------------------------------------------------


class Two(TrainerBase):
    """Two parameters, of which the second loss knows only the first; steps of rate 1."""

    def __init__(self):
        super().__init__()
        self.model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(2)), "v": nn.Parameter(torch.zeros(1))})
        self.register_model("model", self.model, torch.optim.SGD(self.model.parameters(), lr=1.0))


@pytest.mark.parametrize(
    "b, strength, expected",
    [
        ((0.0, 2.0), 1, (1.0, 0.0)),  # a . b = -2, b^ = (0, 1), so a + strength b^
        ((0.0, 2.0), 0.25, (1.0, -0.75)),
        ((0.0, -2.0), 1, (1.0, -1.0)),  # no conflict
        ((0.0, 0.0), 1, (1.0, -1.0)),  # no direction
    ],
)
def test_prograd_takes_out_the_opposing_part(b, strength, expected):
    """The gradients in w are a = (1, -1) and b; the step is a - strength (a . b^) b^ where a . b < 0."""
    trainer = Two()
    w, v = trainer.model["w"], trainer.model["v"]
    loss_a = (w * torch.tensor([1.0, -1.0])).sum() + 3 * v.sum()
    trainer.prograd_backward_and_update(loss_a, (w * torch.tensor(b)).sum(), strength)
    assert (-w).tolist() == pytest.approx(expected)
    assert v.item() == -3.0  # the second loss does not depend on it


def test_trainers_whose_inference_returns_more_than_logits(cfg, monkeypatch):
    trainer = build_trainer(cfg)
    expected = trainer.test()
    plain = trainer.model_inference
    monkeypatch.setattr(trainer, "model_inference", lambda x: (plain(x), "features"))
    assert trainer.test(is_final=True) == expected and trainer.test("test", False) == expected


def test_a_name_that_is_registered_twice():
    chosen = []

    def choose(registry, name, old, new):
        chosen.append((registry.kind, name, old is TrainerX))
        return new if name == "Both" else None

    before = dict(TRAINER_REGISTRY.items())
    try:
        TRAINER_REGISTRY.restore(before | {"Both": TrainerX, "Ours": TrainerX})
        TRAINER_REGISTRY.on_conflict = choose
        both, ours = type("Both", (TrainerX,), {}), type("Ours", (TrainerX,), {})
        TRAINER_REGISTRY.register(both)
        assert TRAINER_REGISTRY.get("Both") is both
        with pytest.raises(KeyError, match='"Ours" is already registered'):
            TRAINER_REGISTRY.register(ours)
        assert chosen == [("trainer", "Both", True), ("trainer", "Ours", True)]
    finally:
        TRAINER_REGISTRY.on_conflict = None
        TRAINER_REGISTRY.restore(before)
