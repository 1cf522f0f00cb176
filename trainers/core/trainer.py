"""What all trainers of this project share: build, step, cached evaluation, small checkpoints.

A method adds its prompts (see `trainers.core.prompts`), the name of its config node and of its checkpoint folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.engine import TrainerX
from dassl.engine.anomalies import non_finite_losses
from dassl.engine.run_record import RunRecord, check_same_run
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError
from dassl.utils.files import remove_folder_atomically
from dassl.utils.names import listed
from dassl.utils.torchtools import POINTER_NAME
from trainers.core.captured import CapturedFunctions
from trainers.core.learned import find_checkpoint, load_learned, read_checkpoint
from trainers.core.linearized import Linearized
from trainers.core.method import Method
from trainers.core.prompted_clip import PromptedClip
from trainers.core.prompts import Theta, at_least_float32, normalized
from trainers.core.record import backbone_digest, changes_no_number, frozen_digest
from trainers.core.templates import teacher_text_features


class MethodTrainer(Method, TrainerX):
    """A method for the classes of a data set.

    Args:
        cfg: the whole configuration.
        prompted: what is to be trained and evaluated; None: built from the configuration.
    """

    refuses_other_configurations = True

    def __init__(self, cfg: CfgNode, prompted: PromptedClip | None = None) -> None:
        self._given = prompted
        self.changes_no_number = changes_no_number()
        super().__init__(cfg)

    def build_model(self) -> None:
        """Build what is evaluated, or take what was given.

        Raises:
            UserError: what was given has other classes or computes elsewhere.
        """
        classes, given = self.dm.dataset.classnames, self._given
        if given is None:
            self.prompted = self.build_prompted_clip(classes, self.device)
            return
        if given.classes != list(classes):
            raise UserError(f"the given PromptedClip has other classes than the data set {self.cfg.DATASET.NAME}")
        if given.device.type != self.device.type:
            raise UserError(f"the given PromptedClip is on {given.device}, but USE_CUDA asks for {self.device}")
        self.prompted, self.classes, self.prompts, self.precision = given, given.classes, given.prompts, given.precision

    def checked_models(self) -> dict[str, nn.Module | None]:
        return super().checked_models() | self.prompted.checked_models()

    def model_inference(self, input: Tensor) -> Tensor:
        return self.prompted.logits(input)


class PromptTrainer(MethodTrainer):
    """Life cycle of a prompt-learning method. Subclasses set the two names of `Method` and `build_prompts`.

    Args:
        cfg: the whole configuration.
        prompted: as of `MethodTrainer`.
        teacher_text: class features [C, e] in place of the teacher's, for those who only measure time; None: computed.
    """

    only_to_resume: frozenset[str] = frozenset()
    """Registered models that only training needs: their checkpoints are removed when it has finished (see
    `keeps_models_of_training`), and a folder without them loads."""
    views = 1
    """Augmented views of a training image."""
    shown_metrics = ("loss_base", "acc")  # of a method that reports its loss in parts

    def __init__(self, cfg: CfgNode, prompted: PromptedClip | None = None, teacher_text: Tensor | None = None) -> None:
        self._given_teacher_text = teacher_text
        super().__init__(cfg, prompted)

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        given = cfg.DATALOADER.K_TRANSFORMS
        if given != self.views:
            raise UserError(
                f"DATALOADER.K_TRANSFORMS is {given}, but {type(self).__name__} is trained on "
                f"{self.views} augmented view{'s' * (self.views > 1)} of an image: set it to {self.views}"
            )

    def build_model(self) -> None:
        super().build_model()
        self.prepare_training()

    @property
    def captured(self) -> CapturedFunctions:
        """Calls the functions of steps and test batches, by their graphs if there are any."""
        return self.prompted.captured

    @captured.setter
    def captured(self, captured: CapturedFunctions) -> None:
        self.prompted.captured = captured

    def prepare_training(self) -> None:
        """Start values, optimiser, scheduler, scaler."""
        cfg = self.cfg
        if cfg.MODEL.INIT_WEIGHTS:
            self._start_from(cfg.MODEL.INIT_WEIGHTS)
        learned = self.prompts.tensors()
        print(f"Parameters to be updated: {listed(learned, 2)} ({sum(p.numel() for p in learned.values()):,} values)")
        self.optim = build_optimizer(self.prompts, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model(self.registered_name, self.registered_module(), self.optim, self.sched)
        self.scaler = self.precision.grad_scaler()
        self._skipped_updates = 0

    def _start_from(self, path: str) -> None:
        """Take the learned tensors of a checkpoint, ours or published, as start values."""
        checkpoint, own = self.prompted.load(path, any_backbone=True), self.registered_module().state_dict()
        values = sum(tensor.numel() for tensor in own.values())
        print(
            f"Starting from MODEL.INIT_WEIGHTS {path} (epoch = {checkpoint.get('epoch')}): {', '.join(own)} "
            f"({values:,} values); {len(checkpoint['state_dict']) - len(own)} other tensors in it are not used"
        )

    @cached_property
    def _frozen_digest(self) -> str | None:
        name = self.cfg.MODEL.BACKBONE.NAME
        return frozen_digest(name, backbone_digest(name))

    def frozen_weights_digest(self) -> str | None:
        return self._frozen_digest

    def forward_backward(self, batch: dict) -> dict[str, float]:
        inputs = self.parse_batch_train(batch)
        gradients, reported = self.captured(self.gradients_of, (self.theta(),), self._loss_scale(), *inputs)
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
            The loss, and tensors of one value each by the names under which they are averaged and logged
        """
        with self.precision.autocast():
            logits = self.prompts.logits(theta, image)  # [B, C]
        loss = F.cross_entropy(at_least_float32(logits), label)
        return loss, {"loss": loss, "acc": compute_accuracy(logits, label)[0]}

    def encoded(self, theta: Theta, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised features text [C, e] and image [B, e], and their logits [B, C], float32 at least."""
        with self.precision.autocast():
            text = normalized(self.prompts.text_features(theta))
            features = normalized(self.prompts.image_features(theta, image))
            return text, features, at_least_float32(self.prompts.similarity(features, text))

    @staticmethod
    def summed(logits: Tensor, label: Tensor, **losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What `objective` returns for a loss that is the sum of several, each reported by its name."""
        loss = reduce(torch.add, losses.values())
        return loss, {"loss": loss, **losses, "acc": compute_accuracy(logits, label)[0]}

    def gradients_of(
        self, theta: Theta, scale: Tensor | None, *inputs: Tensor
    ) -> tuple[Mapping[str, Tensor | None], dict[str, Tensor]]:
        """Gradients of the objective times `scale` (None: 1) for every learned tensor; and what is reported.

        Args:
            inputs: what `parse_batch_train` gives and `objective` takes.
        """
        theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        loss, reported = self.objective(theta, *inputs)
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

    def teacher_text_features(self, templates: Sequence[str] | None = None) -> Tensor:
        """w0: the unprompted CLIP's class features [C, e], the mean over templates, then normalised.

        Args:
            templates: None: ProMetaR's 60.
        """
        features = self._given_teacher_text
        if features is None:
            features = teacher_text_features(self.prompts.clip, self.classes, templates=templates)
        return normalized(features)

    @torch.no_grad()
    def teacher_image_features(self, images: Tensor) -> Tensor:
        """The unprompted CLIP's normalised features [B, e] of images [B, 3, H, W]."""
        with self.precision.autocast():
            return normalized(self.prompts.clip.encode_image(images))

    def theta(self) -> dict[str, Tensor]:
        """The learned tensors without gradients; not copies: an optimiser's steps show in them."""
        return self.prompted.theta()

    def _loss_scale(self) -> Tensor | None:
        return self.scaler.scale(torch.ones((), device=self.device)) if self.scaler.is_enabled() else None

    def finite_numbers(self, reported: Mapping[str, Tensor]) -> dict[str, float]:
        """What a step reports, as numbers. This is the only time that a step waits for the device.

        Raises:
            NonFiniteError: a loss is infinite or NaN; the message names step, tensors and images.
        """
        values = torch.stack([value.detach().squeeze() for value in reported.values()])  # one transfer for all
        numbers = dict(zip(reported, values.tolist(), strict=True))
        if bad := non_finite_losses(numbers):
            self._stop_for_anomaly(bad)
        return numbers

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
        """As Dassl's; models whose checkpoints were removed (`only_to_resume`) start from initial values."""
        removed = self._removed_models(directory)
        if removed and Path(directory, self.registered_name, POINTER_NAME).is_file():
            print(f"No {', '.join(removed)} in {directory}: starting from initial values")
            names = [name for name in self.get_model_names(names) if name not in removed]
        return super().resume_model_if_exist(directory, names)

    def _removed_models(self, directory: str) -> list[str]:
        """Registered models of `only_to_resume` without a folder."""
        registered = [name for name in self.get_model_names() if name in self.only_to_resume]
        return [name for name in registered if not Path(directory, name).is_dir()]

    def parse_batch_train(self, batch: dict) -> tuple[Any, ...]:
        """What `objective` takes besides the learned tensors, on the trainer's device; here images and labels."""
        return self._on_device(batch["img"], batch["label"])

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
        for (name, checkpoint), record in zip(checkpoints.items(), records, strict=True):
            print(f'Loading weights to {name} from "{paths[name]}" (epoch = {checkpoint.get("epoch")})')
            if name == self.registered_name:
                self.prompted.take(checkpoint["state_dict"], paths[name], directory, record and record.classnames)
            else:
                load_learned(self._models[name], checkpoint["state_dict"], paths[name])

    def check_checkpoint(self, name: str, checkpoint: Mapping[str, Any], path: str, resuming: bool) -> RunRecord | None:
        """As Dassl's; prompts that stand for one class each are evaluated on the classes of their training only."""
        record = super().check_checkpoint(name, checkpoint, path, resuming)
        self.prompted.refuse_other_classes(record and record.classnames, path)
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
        paths = {first: find_checkpoint(Path(directory, first), epoch)}
        for name in others:
            path = Path(directory, name, paths[first].name)
            if not path.is_file():
                raise UserError(f"no checkpoint at {path}, though there is {paths[first]}")
            paths[name] = path
        return {name: str(path) for name, path in paths.items()}
