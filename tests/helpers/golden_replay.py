"""Replay of a recorded run through the trainers' public surface, and its deviations from the record.

Initial values go in through `load_model`, batches through `forward_backward` with the recorded seed; parameters come
out of `save_model` and the registered models, logits of `model_inference`. What the step computes on the way (the
gradients handed to the optimiser, ProMetaR's draws, losses and fast weights) is observed from outside.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from golden_data import Recording, images, training_batch
from tiny_runs import set_position
from torch import Tensor

from dassl.utils import load_checkpoint, save_checkpoint
from trainers import prometar
from trainers.core.captured import CapturedFunctions
from trainers.core.prompts import normalised
from trainers.prograd import ProGrad
from trainers.promptsrc import PromptSRC
from trainers.tcp import TCP

MODULATOR = prometar.MODULATOR
STEPS = 6
PARTS = ("CoOp", "CoCoOp", "KgCoOp", "ProGrad", "TCP", "MultiModalAdapter")
REPORTED = {
    "ce": "loss_base",
    "xe_loss": "xe_loss",
    "kl_loss": "kl_loss",
    "scl_text": "loss_text",
    "scl_image": "loss_image",
    "scl_logits": "loss_logits",
    "cos/prompt_learner.ctx": "cos",
}
"""Recorded single numbers of a step, by the name under which ours are reported."""


class Deviations:
    """Largest deviation from the record by quantity, and how many of its tensors were compared."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.largest: dict[str, float] = defaultdict(float)
        self.compared: set[str] = set()

    def add(self, quantity: str, key: str, ours: Tensor, relative: bool = False) -> None:
        """Compare with the record `key`: the largest difference, or (`relative`) its norm over that of the record."""
        recorded = self.recording.tensors[key]
        difference = self.recording.comparable(ours.detach().cpu(), key).double() - recorded.double()
        value = difference.norm() / recorded.double().norm() if relative else difference.abs().max()
        self.largest[quantity] = max(self.largest[quantity], value.item() if value.isfinite() else float("inf"))
        self.compared.add(key)

    def add_if_recorded(self, quantity: str, key: str, ours: Tensor, relative: bool = False) -> None:
        if key in self.recording.tensors:
            self.add(quantity, key, ours, relative)


def stored_name(trainer, name: str) -> str:
    """Name in a checkpoint: those of `PARTS` register the prompt learner or the adapters alone, not the whole model."""
    return name.partition(".")[2] if type(trainer).__name__ in PARTS else name


def load_initial_values(trainer, recording: Recording, folder: Path) -> None:
    """Write the recorded initial values as a checkpoint and load it."""
    start = {stored_name(trainer, key[5:]): v for key, v in recording.tensors.items() if key.startswith("init/")}
    phi = {key[10:]: v for key, v in recording.tensors.items() if key.startswith("vnet_init/")}
    if not start:
        return
    for name in trainer.get_model_names():
        state = {"state_dict": phi if name == MODULATOR else start, "epoch": 1}
        save_checkpoint(state, str(folder / name))
    trainer.load_model(str(folder), epoch=1)


def replay(trainer, recording: Recording, folder: Path, monkeypatch) -> Deviations:
    """Run the recorded batches and compare everything that is recorded."""
    deviations = Deviations(recording)
    for name in (key.removeprefix("start/") for key in recording.tensors if key.startswith("start/")):
        deviations.add("start", f"start/{name}", trainer.prompts.tensors()[name])
    load_initial_values(trainer, recording, folder / "start")
    heldout = images()["heldout_images"]
    before = "eval_logits_before" if "eval_logits_before" in recording.tensors else "logits"
    deviations.add("eval_before", before, evaluate(trainer, heldout))
    if hasattr(trainer, "text_features"):
        deviations.add("text_features", "text_features", trainer.text_features)
    if "teacher_text_features" in recording.tensors:
        teacher = recording.tensors["teacher_text_features"].to(trainer.teacher_text)
        difference = trainer.teacher_text - teacher / teacher.norm(dim=-1, keepdim=True)
        deviations.largest["text_features"] = difference.abs().max().item()
    if "fixed_text_features" in recording.tensors:
        deviations.add("text_features", "fixed_text_features", fixed_text_features(trainer))
    if "description_features" in recording.tensors:
        deviations.add("text_features", "description_features", trainer.descriptions)
    if "lr_used_per_step" not in recording.settings:
        return deviations

    observed = ObservedStep(trainer, monkeypatch)
    torch.manual_seed(recording.settings["seed_run"])
    random.seed(recording.settings["seed_run"])
    epochs = recording.settings["optim"]["MAX_EPOCH"]
    for step in range(STEPS):
        set_position(trainer, step, recording.settings.get("num_batches_per_epoch"), epochs)
        observed.clear()
        batch = training_batch(step)
        rate = trainer.get_current_lr()
        assert abs(rate - recording.settings["lr_used_per_step"][step]) < 1e-12
        before = {name: tensor.clone() for name, tensor in trainer.theta().items()}
        summary = trainer.forward_backward(batch)
        loss = summary["xe_loss" if isinstance(trainer, ProGrad) else "loss"]
        deviations.add("loss", f"step{step}/loss", torch.tensor(loss, dtype=torch.float64))
        compare_terms(deviations, trainer, step, observed.inputs, before, summary)
        compare_parameters(deviations, trainer, step, stored_state(trainer, step, folder / "saved"))
        for number, gradients in enumerate(observed.prompt_gradients):
            kind = ("grad_base", "grad_meta")[number]
            for name, gradient in gradients.items():
                deviations.add_if_recorded(kind, f"step{step}/{kind}/{name}", gradient, relative=True)
        for name, gradient in observed.modulator_gradients.items():
            deviations.add_if_recorded("vnet_grad", f"step{step}/vnet_grad/{name}", gradient, relative=True)
        if isinstance(trainer, prometar.ProMetaR):
            compare_meta_step(deviations, trainer, step, observed)
    deviations.add("eval_after", "eval_logits_after", evaluate(trainer, heldout))
    return deviations


def fixed_text_features(trainer) -> Tensor:
    """Class features [C, e] that training does not change: the teacher's; those of a method that learns no context."""
    if isinstance(trainer, TCP):  # whose network reads them
        return trainer.prompts.teacher
    return trainer.teacher_text if hasattr(trainer, "teacher_text") else trainer.prompts.text_features({})


@torch.no_grad()
def evaluate(trainer, batch: Tensor) -> Tensor:
    trainer.set_model_mode("eval")
    return trainer.model_inference(batch.to(trainer.device)).cpu()


def stored_state(trainer, step: int, folder: Path) -> dict[str, Tensor]:
    """All tensors that checkpoints after a step contain; those of the last step are written and read."""
    names = trainer.get_model_names()
    if step < STEPS - 1:
        contents = [trainer.checkpoint_content(name, step) for name in names]
    else:
        trainer.save_model(step, str(folder))
        contents = [load_checkpoint(folder / name / f"model.pth.tar-{step + 1}") for name in names]
    return {name: value.cpu() for content in contents for name, value in content["state_dict"].items()}


def compare_parameters(deviations: Deviations, trainer, step: int, state: dict[str, Tensor]) -> None:
    """Every learned tensor after the step, and the modulator's where they are recorded."""
    for name in state:
        if name.startswith("linear_"):
            deviations.add_if_recorded("vnet", f"step{step}/vnet/{name}", state[name])
    for name in trainer.prompts.tensors():
        deviations.add_if_recorded("param", f"step{step}/param/{name}", state[stored_name(trainer, name)])


def compare_terms(deviations: Deviations, trainer, step: int, inputs: tuple, theta: dict, summary: dict) -> None:
    """Losses, features and gradients of a step from the learned tensors theta, of the methods that record them."""
    where, recorded = f"step{step}", deviations.recording.tensors
    for name, reported in REPORTED.items():
        if f"{where}/{name}" in recorded:
            value = torch.tensor(summary[reported], dtype=torch.float64)
            deviations.add("cosine" if reported == "cos" else "forward", f"{where}/{name}", value)
    if f"{where}/score" in recorded:  # without its weight
        score = torch.tensor(summary["loss_text"], dtype=torch.float64) / trainer.settings.W
        deviations.add("forward", f"{where}/score", score)
    (images_, labels, *others), prompts = inputs, trainer.prompts
    parts = {
        "logits": lambda: prompts.logits(theta, images_),
        "text_features": lambda: normalised(prompts.text_features(theta)),
        "image_features": lambda: normalised(prompts.image_features(theta, images_)),
        "zs_image_features": lambda: trainer.teacher_image_features(images_),
        "class_prompts": lambda: prompts.class_rows(theta),
    }
    with torch.no_grad():
        for name, compute in parts.items():
            if f"{where}/{name}" in recorded:
                deviations.add("forward", f"{where}/{name}", compute())
    if f"{where}/draw/text_index" in recorded:
        number = int(recorded[f"{where}/draw/text_index"])
        assert torch.equal(others[-1], trainer.descriptions[number])
        deviations.compared.add(f"{where}/draw/text_index")
    if isinstance(trainer, ProGrad):
        for kind, gradients in zip(("g_ce", "g_kl"), trainer.both_gradients(theta, images_, labels), strict=False):
            for name, gradient in gradients.items():
                deviations.add_if_recorded("gradient_parts", f"step{step}/{kind}/{name}", gradient, relative=True)
    if isinstance(trainer, PromptSRC):
        compare_aggregation(deviations, trainer, step)


def compare_aggregation(deviations: Deviations, trainer: PromptSRC, step: int) -> None:
    """The weighted sum of the prompts after each epoch, and the prompts that it replaced at the end."""
    weights = trainer.epoch_weights(trainer.max_epoch)
    if deviations.recording.settings.get("gpa_weights"):
        assert weights.tolist() == pytest.approx(deviations.recording.settings["gpa_weights"], abs=1e-12)
    for name, mean in trainer.mean_prompts.items():
        so_far = mean * weights[: trainer.epoch + 1].sum().item()
        if trainer.batch_idx + 1 == trainer.num_batches:
            deviations.add_if_recorded("param", f"epoch{trainer.epoch}/gpa_sum/{name}", so_far)
    for name, replaced in trainer.replaced_prompts.items():
        deviations.add_if_recorded("param", f"step{step}/param_before_gpa/{name}", replaced)


class ObservedStep:
    """What one `forward_backward` does inside: inputs; gradients at each optimiser step; drawn task; g, r, gamma."""

    def __init__(self, trainer, monkeypatch) -> None:
        self.trainer = trainer
        self.clear()
        trainer.captured = CapturedFunctions(None)  # what is inside a captured step cannot be observed
        trainer.optim.register_step_pre_hook(self._before_prompt_step)
        parse = trainer.parse_batch_train
        monkeypatch.setattr(trainer, "parse_batch_train", lambda batch: self._keep("inputs", parse(batch)))
        if isinstance(trainer, prometar.ProMetaR):
            trainer.modulator_optim.register_step_pre_hook(self._before_modulator_step)
            trainer.monitor = self
            draw, gradients = prometar.sample_task, trainer.gradients
            monkeypatch.setattr(prometar, "sample_task", lambda *a: self._keep("task", draw(*a)))
            monkeypatch.setattr(trainer, "gradients", lambda *a, **k: self._keep_first("base", gradients(*a, **k)))

    def clear(self) -> None:
        self.prompt_gradients, self.modulator_gradients, self.before_meta = [], {}, {}
        self.inputs = self.task = self.base = self.inner = None

    # a monitor that is told of every batch
    def state(self) -> dict:
        return {}

    def due(self, batch_idx: int) -> bool:
        return True

    def record(self, g, r, gamma, update, outer) -> None:
        self.inner = g, r, update

    def _before_prompt_step(self, optimizer, args, kwargs) -> None:
        theta = self.trainer.prompts.tensors()
        self.prompt_gradients.append({name: tensor.grad.clone() for name, tensor in theta.items()})
        self.before_meta = {name: tensor.detach().clone() for name, tensor in theta.items()}

    def _before_modulator_step(self, optimizer, args, kwargs) -> None:
        named = self.trainer.modulator.named_parameters()
        self.modulator_gradients = {name: tensor.grad.clone() for name, tensor in named}

    def _keep(self, name: str, value):
        setattr(self, name, value)
        return value

    def _keep_first(self, name: str, value):
        return self._keep(name, value) if getattr(self, name) is None else value


def compare_meta_step(deviations: Deviations, trainer, step: int, observed: ObservedStep) -> None:
    """ProMetaR's intermediate results; the draws must be the recorded ones."""
    where, recorded = f"step{step}", deviations.recording.tensors
    g, r, losses = observed.base
    compare_forward(deviations, f"{where}/base", losses)
    for name in g:
        deviations.add_if_recorded("gradient_parts", f"{where}/base/g_ce/{name}", g[name], relative=True)
        deviations.add_if_recorded("gradient_parts", f"{where}/base/g_reg/{name}", r[name], relative=True)
    single_class = step in deviations.recording.settings["single_class_steps"]
    assert (observed.task is None) == single_class == (f"{where}/draw/lam" not in recorded)
    middle = trainer.prompts.tensors() if single_class else observed.before_meta
    for name in middle:
        deviations.add_if_recorded("param_mid", f"{where}/param_mid/{name}", middle[name])
    if single_class:
        return
    images_, labels = observed.inputs
    compare_draws(deviations, where, labels.cpu(), observed.task)
    g, r, modulated = observed.inner
    fast = {}
    for name in middle:
        fast[name] = middle[name] - trainer.settings.ADAPT_LR * modulated[name]
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_ce/{name}", g[name], relative=True)
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_reg/{name}", r[name], relative=True)
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_mod/{name}", modulated[name], relative=True)
        deviations.add_if_recorded("fast", f"{where}/fast/{name}", fast[name])
    everything = prometar.Batch(images_, labels, trainer.teacher_image_features(images_))
    with torch.no_grad():
        support, both = everything.at(observed.task.support), everything.at(observed.task.images())
        compare_forward(deviations, f"{where}/adapt", trainer.losses(*features(trainer, middle, support), support)[1])
        query = trainer.query_loss(*features(trainer, fast, both), both.labels, observed.task)
    deviations.add_if_recorded("forward", f"{where}/query/ce", query)


def features(trainer, theta, batch: prometar.Batch) -> tuple[Tensor, Tensor]:
    return trainer.prompts.text_features(theta), trainer.prompts.image_features(theta, batch.images)


def compare_forward(deviations: Deviations, where: str, losses: prometar.Losses) -> None:
    parts = {"ce": losses.base, "rag_text": losses.text, "rag_image": losses.image, "logits": losses.logits}
    for name, value in parts.items():
        deviations.add_if_recorded("forward", f"{where}/{name}", value)


def compare_draws(deviations: Deviations, where: str, labels: Tensor, task: prometar.Task) -> None:
    draws = {"query_ids": task.query, "support_ids": task.support, "mix_ids": task.mix, "lam": task.lam}
    draws["query_label"] = labels[task.query[0]]
    for name, value in draws.items():
        key = f"{where}/draw/{name}"
        assert torch.equal(value, deviations.recording.tensors[key].to(value.dtype).view_as(value)), key
        deviations.compared.add(key)
