"""What the log says about the meta part. Expected values: computed by hand from the recorded tensors."""

from __future__ import annotations

import math
import re

import pytest
import torch
from golden_data import images
from plain_clip import unit
from tiny_runs import learned, set_position

from trainers.core.meta_monitor import MetaMonitor
from trainers.prometar import modulated

AMPLIFIED = {"ADAPT_LR": 0.5, "LR_RATIO": 1.0}


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"prompt_learner.ctx": (2, 8), "image_encoder.VPT": (3, 4)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def test_values_by_hand():
    monitor, written = MetaMonitor(every=1), {}
    batches = [[tensors(10 * k + i) for i in range(4)] for k in range(3)]
    for g, r, gamma, outer in batches:
        monitor.record(g, r, gamma, modulated(g, gamma, r), outer)
    monitor.report(4, lambda name, value, epoch: written.update({name: (value, epoch)}))

    def values(by_name):
        return [value for tensor in by_name.values() for value in tensor.flatten().tolist()]

    def mean(of):
        return sum(of) / len(of)

    def norm(of):
        return math.sqrt(sum(value * value for value in of))

    expected = {}
    for i, name in enumerate(("g", "r")):
        expected[f"meta/norm_{name}"] = mean([norm(values(batch[i])) for batch in batches])
    expected["meta/norm_outer"] = mean([norm(values(batch[3])) for batch in batches])
    cosines = []
    for g, r, gamma, outer in batches:
        inner = [a + c * b for a, b, c in zip(values(g), values(r), values(gamma), strict=True)]
        product = sum(a * b for a, b in zip(inner, values(outer), strict=True))
        cosines.append(product / norm(inner) / norm(values(outer)))
    expected["meta/cosine_inner_outer"] = mean(cosines)
    for name in batches[0][2]:
        gammas = [batch[2][name].flatten().tolist() for batch in batches]
        expected[f"meta/gamma_mean/{name}"] = mean([mean(row) for row in gammas])
        spreads = [math.sqrt(mean([(value - mean(row)) ** 2 for value in row])) for row in gammas]
        expected[f"meta/gamma_std/{name}"] = mean(spreads)
    assert {name: value for name, (value, _) in written.items()} == pytest.approx(expected, rel=1e-5)
    assert {epoch for _, epoch in written.values()} == {4}


def test_every_nth_batch_and_a_fresh_start_each_epoch(capsys):
    monitor = MetaMonitor(every=5)
    assert [i for i in range(12) if monitor.due(i)] == [0, 5, 10]
    written = []
    monitor.report(0, lambda *arguments: written.append(arguments))
    assert not written and not capsys.readouterr().out  # nothing was recorded
    for seed in (1, 2):
        monitor.record(*[tensors(seed)] * 5)
        means = monitor.report(seed, lambda *arguments: None)
        alone = MetaMonitor(1)
        alone.record(*[tensors(seed)] * 5)
        assert means == alone.report(0, lambda *arguments: None)


@pytest.mark.parametrize("first_order", [False, True])
def test_what_a_step_records(tiny_trainer, first_order):
    """g, r and gamma of the support at the point between the two updates, and the outer gradient."""
    trainer = tiny_trainer("ProMetaR", AMPLIFIED | {"FAST_ADAPTATION": first_order})
    seen, before_meta, gradients = [], {}, []

    class Recorder(MetaMonitor):
        def record(self, g, r, gamma, update, outer):
            seen.append((g, r, gamma, update, outer))
            before_meta.update(learned(trainer))
            super().record(g, r, gamma, update, outer)

    trainer.monitor = Recorder(1)
    trainer.optim.register_step_pre_hook(
        lambda *_: gradients.append({name: p.grad.clone() for name, p in trainer.prompts.named_parameters()})
    )
    set_position(trainer, 0)
    batch, labels = images()["train_images"][0], images()["train_labels"][0]
    torch.manual_seed(3)
    trainer.forward_backward({"img": batch, "label": labels})
    ((g, r, gamma, update, outer),) = seen
    torch.manual_seed(3)
    query = torch.randperm(4)[0]  # four labels, one image each: the query class is its image
    support = [i for i in range(4) if i != query]

    theta = {name: before_meta[name].requires_grad_() for name in g}
    losses_g, losses_r = by_hand_gradients(trainer, theta, batch[support], labels[support])
    for name in g:
        assert (g[name] - losses_g[name]).norm() < 1e-3 * losses_g[name].norm()
        assert (r[name] - losses_r[name]).norm() < 1e-3 * losses_r[name].norm()
        assert gamma[name].shape == g[name].shape and gamma[name].min() > 0 and gamma[name].max() < 1
        assert torch.equal(update[name], g[name] + gamma[name] * r[name])
        assert torch.equal(outer[name], gradients[1][name])


def by_hand_gradients(trainer, theta, batch, labels):
    """Gradients of the cross-entropy and of the regularisers, by plain autograd."""
    text = unit(trainer.prompts.text_features(theta))
    image = unit(trainer.prompts.image_features(theta, batch))
    teacher = unit(trainer.prompts.clip.encode_image(batch))
    logits = trainer.prompts.clip.logit_scale.exp() * image @ text.t()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    regulariser = 50 * (text - trainer.teacher_text).abs().mean() + 20 * (image - teacher).abs().mean()
    tensors_ = list(theta.values())
    g = torch.autograd.grad(loss, tensors_, retain_graph=True)
    r = torch.autograd.grad(regulariser, tensors_)
    return dict(zip(theta, g, strict=True)), dict(zip(theta, r, strict=True))


def test_an_epoch_is_reported_in_log_and_tensorboard(tiny_trainer, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = tiny_trainer("ProMetaR", AMPLIFIED | {"TRAIN.PRINT_FREQ": 3, "OPTIM.MAX_EPOCH": 2})
    trainer.train()
    log = capsys.readouterr().out
    lines = re.findall(
        r"^meta: \|g\| (\S+) \|r\| (\S+) \|outer\| (\S+) cos\(inner, outer\) (\S+) \((\d) batches\)", log, re.M
    )
    assert len(lines) == 2  # epochs
    assert all(float(value) > 0 for line in lines for value in line[:3])
    assert all(line[4] == "3" for line in lines)  # batches 0, 3 and 6 of seven
    assert len(re.findall(r"^meta: gamma 0\.\d+ \+- \S+ \S+$", log, re.M)) == 2 * len(trainer.prompts.tensors())
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    cosines = [event.value for event in events.Scalars("meta/cosine_inner_outer")]
    assert cosines == pytest.approx([float(line[3]) for line in lines], abs=1e-4)
    assert events.Scalars("meta/gamma_mean/prompt_learner.ctx")


def test_switched_off(tiny_trainer, capsys):
    trainer = tiny_trainer("ProMetaR", AMPLIFIED | {"MONITOR": False, "OPTIM.MAX_EPOCH": 1, "DATASET.NUM_SHOTS": 1})
    trainer.train()
    assert not any(map(trainer.monitor.due, range(20)))
    assert "meta:" not in capsys.readouterr().out


def test_watching_changes_nothing(tiny_trainer):
    results = []
    for monitor in (True, False):
        torch.manual_seed(0)
        trainer = tiny_trainer("ProMetaR", AMPLIFIED | {"MONITOR": monitor})
        set_position(trainer, 0)
        torch.manual_seed(1)
        trainer.forward_backward({"img": images()["train_images"][0], "label": images()["train_labels"][0]})
        results.append(learned(trainer))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
