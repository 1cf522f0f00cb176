"""What all trainers of this project share: build, step, cached evaluation, small checkpoints.

A method adds its prompts (see `trainers.core.prompts`), the name of its config node and of its checkpoint folder.
"""

from __future__ import annotations

import os.path as osp
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.backbones.open_clip import Pixels
from clip.clip import load_backbone
from clip.kernel_choice import choose_kernels
from clip.model import CLIP
from dassl.engine import TrainerX
from dassl.engine.anomalies import non_finite_losses
from dassl.engine.run_record import RunRecord, check_same_run, check_weights, classnames_digest
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError, load_checkpoint
from dassl.utils.files import remove_folder_atomically
from dassl.utils.torchtools import BEST_NAME, POINTER_NAME, checkpoint_name, last_checkpoint_file
from trainers.core.captured import CapturedFunctions
from trainers.core.linearized import Linearized
from trainers.core.precision import Precision
from trainers.core.prompts import Prompts, Theta, at_least_float32, normalized
from trainers.core.ranges import check_ranges
from trainers.core.record import backbone_digest, changes_no_number, frozen_digest
from trainers.core.templates import teacher_text_features
from trainers.core.unknown_words import warn_of_unknown_words

LEARNED_NAME = re.compile(r"(^|\.)(ctx|VPT|VPT_shallow)$|compound_prompt|meta_net\.|^(prompt_learner\.)?proj\.")
"""What published checkpoints call learned tensors; everything else in them is the frozen CLIP."""


def load_clip(cfg: CfgNode, precision: Precision) -> CLIP:
    """The frozen CLIP of `MODEL.BACKBONE.NAME` on the trainer's device."""
    clip, pixels = load_backbone(cfg.MODEL.BACKBONE.NAME)
    expected = clip.visual.input_resolution
    if set(cfg.INPUT.SIZE) != {expected}:
        raise UserError(
            f"backbone {cfg.MODEL.BACKBONE.NAME} takes {expected}x{expected} images, but INPUT.SIZE is "
            f'{tuple(cfg.INPUT.SIZE)}: set INPUT.SIZE "({expected}, {expected})"'
        )
    if pixels is not None:
        _check_pixels(cfg, pixels)
    return precision.convert(clip).to(precision.device)


def _check_pixels(cfg: CfgNode, pixels: Pixels) -> None:
    """Raise UserError where the configured images are not what the backbone was trained on."""
    wanted = {"PIXEL_MEAN": list(pixels.mean), "PIXEL_STD": list(pixels.std), "INTERPOLATION": pixels.interpolation}
    for key, value in wanted.items():
        configured = cfg.INPUT[key] if key == "INTERPOLATION" else list(cfg.INPUT[key])
        if configured != value:
            raise UserError(
                f"backbone {cfg.MODEL.BACKBONE.NAME} was trained with {key} {value}, but INPUT.{key} is {configured}: "
                f'set INPUT.{key} "{value}"'
            )


def load_learned(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a checkpoint's learned tensors into `module`; frozen CLIP tensors in it are ignored.

    Raises:
        UserError: a tensor is missing or mis-shaped, or the checkpoint holds a prompt that `module` has not.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{source}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            shape, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise UserError(f"{source}: tensor {name} has shape {shape}, but this configuration needs {expected}")
    for name in state:
        if name not in own and LEARNED_NAME.search(name):
            raise UserError(f"{source}: holds prompt tensor {name}, which this configuration has not")
    module.load_state_dict({name: state[name] for name in own})


def find_checkpoint(folder: str, epoch: int | None) -> str:
    """File of an epoch; of the best model when no epoch is given, or of the last epoch when none was kept as best.

    Raises:
        UserError: no such file.
    """
    if epoch is not None:
        path = osp.join(folder, checkpoint_name(epoch))
    else:
        path = osp.join(folder, BEST_NAME)
        if not osp.isfile(path) and osp.isfile(osp.join(folder, POINTER_NAME)):
            path = osp.join(folder, last_checkpoint_file(folder))
    if not osp.isfile(path):
        raise UserError(f"no checkpoint at {path}: check --model-dir and --load-epoch")
    return path


def read_checkpoint(path: str) -> dict[str, Any]:
    """The content of a trainer's checkpoint, ours or published, with a `state_dict` of tensors.

    Raises:
        UserError: it is something else.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a checkpoint of a trainer: it has no state_dict")
    return checkpoint


def as_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Tensors of one value each, on one device, as Python numbers; by one transfer, since each makes the host wait."""
    return dict(zip(values, torch.stack([value.detach().squeeze() for value in values.values()]).tolist(), strict=True))


def descend(optimizer: torch.optim.Optimizer, module: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """One optimiser step of a module's parameters along the given gradients."""
    for name, parameter in module.named_parameters():
        parameter.grad = gradients[name].to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad()


class PromptTrainer(TrainerX):
    """Life cycle of a prompt-learning method. Subclasses set the two names and `build_prompts`."""

    config_node: str
    """Node of the method under TRAINER."""
    registered_name: str
    """Folder of its checkpoints, as published."""
    only_to_resume: frozenset[str] = frozenset()
    """Registered models that only training needs: their checkpoints are removed when it has finished (see
    `keeps_models_of_training`), and a folder without them loads."""
    refuses_other_configurations = True

    @property
    def changes_no_number(self) -> frozenset[str]:
        return changes_no_number()

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add the method's defaults to `cfg.TRAINER`."""

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        """The method's learned tensors and encoders."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it learns")

    def registered_module(self) -> nn.Module:
        """The module whose state dict is saved."""
        return self.prompts

    @property
    def settings(self) -> CfgNode:
        """The method's own config node."""
        return self.cfg.TRAINER[self.config_node]

    def check_ranges(self, cfg: CfgNode) -> None:
        check_ranges(cfg)

    def check_cfg(self, cfg: CfgNode) -> None:
        if cfg.DATALOADER.K_TRANSFORMS != 1:
            raise UserError(
                f"DATALOADER.K_TRANSFORMS {cfg.DATALOADER.K_TRANSFORMS}: prompts are trained on one view, 1"
            )

    def build_model(self) -> None:
        cfg = self.cfg
        self.precision = Precision.choose(self.settings.PREC, self.device)
        choose_kernels(cfg.TRAINER.FUSED, self.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(cfg.TRAINER.TF32)
        self.captured = CapturedFunctions.choose(cfg.TRAINER.CUDA_GRAPH, self.device)
        print(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
        clip = load_clip(cfg, self.precision)
        warn_of_unknown_words(clip, self.dm.dataset.classnames, cfg.MODEL.BACKBONE.NAME)
        self.prompts = self.build_prompts(clip, self.dm.dataset.classnames).to(self.device)
        if cfg.TRAINER.TEXT_CHUNK > 0 and hasattr(self.prompts, "context"):
            self.prompts.context.recompute_in_chunks(cfg.TRAINER.TEXT_CHUNK)
        self._text_cache: tuple[tuple, Tensor] | None = None
        self.prepare_training()

    def checked_models(self) -> dict[str, nn.Module | None]:
        return super().checked_models() | {"frozen CLIP": self.prompts.clip}

    def prepare_training(self) -> None:
        """Start values, optimiser, scheduler, scaler; what a model that only predicts does without."""
        cfg = self.cfg
        if cfg.MODEL.INIT_WEIGHTS:
            self._start_from(cfg.MODEL.INIT_WEIGHTS)
        learned = self.prompts.tensors()
        print(f"Parameters to be updated: {', '.join(learned)} ({sum(p.numel() for p in learned.values()):,} values)")
        self.optim = build_optimizer(self.prompts, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model(self.registered_name, self.registered_module(), self.optim, self.sched)
        self.scaler = self.precision.grad_scaler()
        self._skipped_updates = 0

    def _start_from(self, path: str) -> None:
        """Take the learned tensors of a checkpoint, ours or published, as start values."""
        checkpoint = read_checkpoint(path)
        check_weights(checkpoint, path)
        state, module = checkpoint["state_dict"], self.registered_module()
        load_learned(module, state, path)
        own = module.state_dict()
        values = sum(tensor.numel() for tensor in own.values())
        print(
            f"Starting from MODEL.INIT_WEIGHTS {path} (epoch = {checkpoint.get('epoch')}): {', '.join(own)} "
            f"({values:,} values); {len(state) - len(own)} other tensors in it are not used"
        )

    @cached_property
    def _frozen_digest(self) -> str | None:
        name = self.cfg.MODEL.BACKBONE.NAME
        return frozen_digest(name, backbone_digest(name))

    def frozen_weights_digest(self) -> str | None:
        return self._frozen_digest

    def forward_backward(self, batch: dict) -> dict[str, float]:
        image, label = self.parse_batch_train(batch)
        gradients, reported = self.captured(self.gradients_of, (self.theta(),), image, label, self._loss_scale())
        numbers = self.finite_numbers(reported)
        self.update_prompts(gradients)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return numbers

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that is minimised, and what is reported of a step; here the cross-entropy.

        A pure function of tensors that does not wait for the device, so that it can be captured.

        Args:
            theta: the learned tensors by name.
            image: [B, 3, H, W]
            label: [B]
        Returns:
            the loss, and tensors of one value each by the names under which they are averaged and logged
        """
        with self.precision.autocast():
            logits = self.prompts.logits(theta, image)  # [B, C]
        loss = F.cross_entropy(at_least_float32(logits), label)
        return loss, {"loss": loss, "acc": compute_accuracy(logits, label)[0]}

    def gradients_of(
        self, theta: Theta, image: Tensor, label: Tensor, scale: Tensor | None
    ) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
        """Gradients of the objective times `scale` (None: 1) for every learned tensor; and what is reported."""
        theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        loss, reported = self.objective(theta, image, label)
        scaled = loss if scale is None else loss * scale
        gradients = torch.autograd.grad(scaled, list(theta.values()), allow_unused=True)
        return dict(zip(theta, gradients, strict=True)), reported

    def linearized(self, theta: Theta, images: Tensor) -> Linearized:
        """Features of prompts theta, with their derivatives with respect to theta. images: [B, 3, H, W]"""
        with torch.no_grad(), self.precision.autocast():
            return Linearized(self.prompts, theta, images)

    def similarity(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C], float32 at least, of normalised features image [B, e] and text [C, e]."""
        with self.precision.autocast():
            return at_least_float32(self.prompts.similarity(image, text))

    def teacher_text_features(self) -> Tensor:
        """w0: the unprompted CLIP's class features [C, e], the mean over ProMetaR's 60 templates, then normalised."""
        return normalized(teacher_text_features(self.prompts.clip, self.dm.dataset.classnames))

    @torch.no_grad()
    def teacher_image_features(self, images: Tensor) -> Tensor:
        """The unprompted CLIP's normalised features [B, e] of images [B, 3, H, W]."""
        with self.precision.autocast():
            return normalized(self.prompts.clip.encode_image(images))

    def theta(self) -> dict[str, Tensor]:
        """The learned tensors without gradients; not copies: an optimiser's steps show in them."""
        return {name: tensor.detach() for name, tensor in self.prompts.tensors().items()}

    def _loss_scale(self) -> Tensor | None:
        return self.scaler.scale(torch.ones((), device=self.device)) if self.scaler.is_enabled() else None

    def finite_numbers(self, reported: Mapping[str, Tensor]) -> dict[str, float]:
        """What a step reports, as numbers; the one time that a step waits for the device. Raises NonFiniteLossError."""
        numbers = as_numbers(reported)
        self.stop_if_not_finite(numbers)
        return numbers

    def stop_if_not_finite(self, numbers: Mapping[str, float]) -> None:
        """Raise NonFiniteLossError, with step, tensors and images, when a loss is infinite or NaN."""
        if bad := non_finite_losses(numbers):
            self._stop_for_anomaly(bad)

    def update_prompts(self, gradients: Mapping[str, Tensor | None]) -> None:
        """One optimiser step; it is skipped, and counted, when scaled gradients overflow float16."""
        for name, tensor in self.prompts.tensors().items():
            tensor.grad = gradients[name]
        scale = self.scaler.get_scale()
        self.scaler.step(self.optim)
        self.scaler.update()
        self._skipped_updates += self.scaler.get_scale() < scale

    def after_epoch(self) -> None:
        if self._skipped_updates:
            print(
                f"float16 overflow: {self._skipped_updates} of {self.num_batches} updates of epoch {self.epoch + 1} "
                f"skipped, loss scale now {self.scaler.get_scale():g}"
            )
            self._skipped_updates = 0
        super().after_epoch()

    def keeps_models_of_training(self) -> bool:
        """Whether the checkpoints of `only_to_resume` stay when training has finished."""
        return False

    def after_train(self) -> None:
        super().after_train()
        for name in () if self.keeps_models_of_training() else self.only_to_resume:
            remove_folder_atomically(Path(self.output_dir, name))

    def resume_model_if_exist(self, directory: str, names: str | list[str] | None = None) -> int:
        """As Dassl's; models whose checkpoints were removed (`only_to_resume`) start anew."""
        removed = self._removed_models(directory)
        if removed and Path(directory, self.registered_name, POINTER_NAME).is_file():
            print(f"No {', '.join(removed)} in {directory}: it starts anew")
            names = [name for name in self.get_model_names(names) if name not in removed]
        return super().resume_model_if_exist(directory, names)

    def _removed_models(self, directory: str) -> list[str]:
        """Registered models of `only_to_resume` without a folder."""
        registered = [name for name in self.get_model_names() if name in self.only_to_resume]
        return [name for name in registered if not Path(directory, name).is_dir()]

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        return self._on_device(batch["img"], batch["label"])

    def model_inference(self, image: Tensor) -> Tensor:
        with self.precision.autocast():
            text = None if self.prompts.text_depends_on_image else self._evaluation_text_features()
            return self.captured(self._logits, (self.theta(),), image, text)

    def _logits(self, theta: Theta, image: Tensor, text: Tensor | None) -> Tensor:
        return self.prompts.logits(theta, image, text)

    @torch.no_grad()
    def _evaluation_text_features(self) -> Tensor:
        """Normalised class features [C, e], encoded anew only when a learned tensor has changed."""
        theta = self.prompts.tensors()
        state = tuple((id(tensor), tensor._version) for tensor in theta.values())
        if self._text_cache is None or self._text_cache[0] != state:
            self._text_cache = state, normalized(self.prompts.text_features(theta))
        return self._text_cache[1]

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load learned tensors from `<directory>/<registered name>/`, ours or published, before an evaluation.

        Raises:
            UserError: no such checkpoint, or one that does not fit or was trained with another configuration; tensor
                or keys are named.
        """
        if not directory:
            raise UserError(f"{type(self).__name__} learns: name the folder of a trained model (--model-dir)")
        self.check_folder(directory, resuming=False)
        paths = self._checkpoint_paths(directory, epoch)
        checkpoints = {name: read_checkpoint(path) for name, path in paths.items()}
        records = [self.check_checkpoint(name, checkpoints[name], paths[name], resuming=False) for name in paths]
        check_same_run(list(paths.values()), records)
        if records[0] is None:
            print(f"{directory} records nothing about its training: only the shapes of its tensors are checked")
        for name, checkpoint in checkpoints.items():
            print(f'Loading weights to {name} from "{paths[name]}" (epoch = {checkpoint.get("epoch")})')
            load_learned(self._models[name], checkpoint["state_dict"], paths[name])

    def check_checkpoint(self, name: str, checkpoint: dict[str, Any], path: str, resuming: bool) -> RunRecord | None:
        """As Dassl's; prompts that stand for one class each are evaluated on the classes of their training only."""
        record = super().check_checkpoint(name, checkpoint, path, resuming)
        classes = classnames_digest(self.recorded_classnames)
        if record is not None and self.prompts.class_specific and record.classnames != classes:
            raise UserError(f"{path}: its prompts are class-specific (CSC), they stand for no other class names")
        return record

    def models_to_load(self, directory: str) -> list[str]:
        """Names of the registered models whose checkpoints an evaluation loads, the prompts' first."""
        removed = self._removed_models(directory)
        for name in removed:
            print(f"No {name} in {directory}: it keeps its initial values (only training needs it)")
        return [name for name in self.get_model_names() if name not in removed]

    def _checkpoint_paths(self, directory: str, epoch: int | None) -> dict[str, str]:
        """The checkpoint of each registered model, all of the epoch that the first model's has."""
        first, *others = self.models_to_load(directory)
        paths = {first: find_checkpoint(osp.join(directory, first), epoch)}
        for name in others:
            path = osp.join(directory, name, osp.basename(paths[first]))
            if not osp.isfile(path):
                raise UserError(f"no checkpoint at {path}, though there is {paths[first]}")
            paths[name] = path
        return paths
