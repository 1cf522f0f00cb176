"""Replay of a recorded run through the trainers' public surface, and its deviations from the record.

Initial values go in through `load_model`, batches through `forward_backward` with the recorded seed; parameters come
out of `save_model` and the registered models, logits of `model_inference`. What the step computes on the way (the
gradients handed to the optimiser, ProMetaR's draws, losses and fast weights) is observed from outside.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from golden_data import Recording, images
from tiny_runs import set_position
from torch import Tensor

from dassl.utils import load_checkpoint, save_checkpoint
from trainers import prometar
from trainers.core.captured import CapturedFunctions

MODULATOR = prometar.MODULATOR
STEPS = 6


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
    """Name in a checkpoint: CoOp and CoCoOp register the prompt learner itself, the others the prompted model."""
    return name.removeprefix("prompt_learner.") if type(trainer).__name__ in ("CoOp", "CoCoOp") else name


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
    load_initial_values(trainer, recording, folder / "start")
    heldout = images()["heldout_images"]
    before = "eval_logits_before" if "eval_logits_before" in recording.tensors else "logits"
    deviations.add("eval_before", before, evaluate(trainer, heldout))
    if hasattr(trainer, "text_features"):
        deviations.add("text_features", "text_features", trainer.text_features)
    if hasattr(trainer, "teacher_text"):
        teacher = recording.tensors["teacher_text_features"].to(trainer.teacher_text)
        difference = trainer.teacher_text - teacher / teacher.norm(dim=-1, keepdim=True)
        deviations.largest["text_features"] = difference.abs().max().item()
    if "fixed_text_features" in recording.tensors:
        deviations.add("text_features", "fixed_text_features", trainer.prompts.text_features({}))
    if "lr_used_per_step" not in recording.settings:
        return deviations

    observed = ObservedStep(trainer, monkeypatch)
    torch.manual_seed(recording.settings["seed_run"])
    for step in range(STEPS):
        set_position(trainer, step, recording.settings.get("num_batches_per_epoch"))
        observed.clear()
        batch = {"img": images()["train_images"][step], "label": images()["train_labels"][step]}
        rate = trainer.get_current_lr()
        assert abs(rate - recording.settings["lr_used_per_step"][step]) < 1e-12
        summary = trainer.forward_backward(batch)
        deviations.add("loss", f"step{step}/loss", torch.tensor(summary["loss"], dtype=torch.float64))
        compare_parameters(deviations, trainer, step, saved_state(trainer, step, folder / "saved"))
        for number, gradients in enumerate(observed.prompt_gradients):
            kind = ("grad_base", "grad_meta")[number]
            for name, gradient in gradients.items():
                deviations.add_if_recorded(kind, f"step{step}/{kind}/{name}", gradient, relative=True)
        for name, gradient in observed.modulator_gradients.items():
            deviations.add_if_recorded("vnet_grad", f"step{step}/vnet_grad/{name}", gradient, relative=True)
        if isinstance(trainer, prometar.ProMetaR):
            compare_meta_step(deviations, trainer, step, batch, observed)
    deviations.add("eval_after", "eval_logits_after", evaluate(trainer, heldout))
    return deviations


@torch.no_grad()
def evaluate(trainer, batch: Tensor) -> Tensor:
    trainer.set_model_mode("eval")
    return trainer.model_inference(batch.to(trainer.device)).cpu()


def saved_state(trainer, step: int, folder: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoints that `save_model` writes."""
    trainer.save_model(step, str(folder))
    paths = [folder / name / f"model.pth.tar-{step + 1}" for name in trainer.get_model_names()]
    return {name: value for path in paths for name, value in load_checkpoint(path)["state_dict"].items()}


def compare_parameters(deviations: Deviations, trainer, step: int, state: dict[str, Tensor]) -> None:
    """Every learned tensor after the step, and the modulator's where they are recorded."""
    for name in state:
        if name.startswith("linear_"):
            deviations.add_if_recorded("vnet", f"step{step}/vnet/{name}", state[name])
    for name in trainer.prompts.tensors():
        deviations.add_if_recorded("param", f"step{step}/param/{name}", state[stored_name(trainer, name)])


class ObservedStep:
    """What one `forward_backward` does inside: gradients at each optimiser step; the drawn task; g, r and gamma."""

    def __init__(self, trainer, monkeypatch) -> None:
        self.trainer = trainer
        self.clear()
        trainer.captured = CapturedFunctions(None)  # what is inside a captured step cannot be observed
        trainer.optim.register_step_pre_hook(self._before_prompt_step)
        if isinstance(trainer, prometar.ProMetaR):
            trainer.modulator_optim.register_step_pre_hook(self._before_modulator_step)
            trainer.monitor = self
            draw, gradients = prometar.sample_task, trainer.gradients
            monkeypatch.setattr(prometar, "sample_task", lambda *a: self._keep("task", draw(*a)))
            monkeypatch.setattr(trainer, "gradients", lambda *a, **k: self._keep_first("base", gradients(*a, **k)))

    def clear(self) -> None:
        self.prompt_gradients, self.modulator_gradients, self.before_meta = [], {}, {}
        self.task = self.base = self.inner = None

    # a monitor that is told of every batch
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


def compare_meta_step(deviations: Deviations, trainer, step: int, batch: dict, observed: ObservedStep) -> None:
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
    compare_draws(deviations, where, batch["label"], observed.task)
    g, r, modulated = observed.inner
    fast = {}
    for name in middle:
        fast[name] = middle[name] - trainer.settings.ADAPT_LR * modulated[name]
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_ce/{name}", g[name], relative=True)
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_reg/{name}", r[name], relative=True)
        deviations.add_if_recorded("gradient_parts", f"{where}/adapt/g_mod/{name}", modulated[name], relative=True)
        deviations.add_if_recorded("fast", f"{where}/fast/{name}", fast[name])
    images_, labels = trainer.parse_batch_train(batch)
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
