"""CLIP with prompts, from images to logits: what an evaluation, a prediction or an export needs, and nothing more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip.model import CLIP
from dassl.engine.run_record import check_weights, classnames_digest
from dassl.utils import UserError
from trainers.core.captured import CapturedFunctions
from trainers.core.learned import Learned, load_learned, read_checkpoint
from trainers.core.precision import Precision
from trainers.core.prompts import Prompts, Theta, normalised
from trainers.core.record import check_same_backbone


class PromptedClip:
    """A frozen CLIP with a method's prompts for some classes. `trainers.core.method.prompted_clip` builds one.

    It reads no data and does not train. Images [B, 3, H, W] are normalised as the backbone expects them, on any device.

    Args:
        prompts: learned tensors and encoders.
        learned: the same tensors as checkpoints contain them.
        classes: class names in the order of the logits.
        precision: device and number format of the computation.
        captured: calls the functions of test batches.
        backbone: name of the frozen CLIP, with which checkpoints are compared; None: not known, they are not.
    """

    def __init__(
        self,
        prompts: Prompts,
        learned: Learned,
        classes: Sequence[str],
        precision: Precision,
        captured: CapturedFunctions,
        backbone: str | None = None,
    ) -> None:
        self.prompts, self.learned = prompts, learned
        self.classes = list(classes)
        self.precision, self.captured, self.backbone = precision, captured, backbone
        self._text_cache: tuple[list[tuple], Tensor] | None = None

    @property
    def clip(self) -> CLIP:
        """The frozen model."""
        return self.prompts.clip

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.precision.device

    def theta(self) -> dict[str, Tensor]:
        """The learned tensors without gradients; not copies: an optimiser's steps show in them."""
        return {name: tensor.detach() for name, tensor in self.prompts.tensors().items()}

    def load(self, path: str | os.PathLike[str], any_backbone: bool = False) -> dict[str, Any]:
        """Take the learned tensors of a checkpoint file, ours or published.

        Args:
            path: the file.
            any_backbone: also take tensors that were trained on another CLIP, as start values.

        Returns:
            The content of the checkpoint.

        Raises:
            UserError: it is not a checkpoint, is damaged, was trained on another CLIP, or its tensors do not fit.
        """
        source, folder = os.fspath(path), Path(path).absolute().parent.parent
        checkpoint = read_checkpoint(source)
        record = check_weights(checkpoint, source)
        if record is not None and self.backbone is not None and not any_backbone:
            check_same_backbone(record, self.backbone, source)
        self.take(checkpoint["state_dict"], source, str(folder), record and record.classnames)
        return checkpoint

    def take(self, state: Mapping[str, Tensor], source: str, folder: str, classnames: str | None) -> None:
        """Take the learned tensors of a checkpoint or of an exported folder.

        Args:
            state: the tensors by name.
            source: the file that they are from, for error messages.
            folder: of the run that wrote them, or of the export.
            classnames: digest of the class names of the training (`classnames_digest`); None: not recorded.

        Raises:
            UserError: a tensor is missing or mis-shaped, this configuration does not have it, or it stands for other
                classes.
        """
        self.refuse_other_classes(classnames, source)
        module, _, unused, for_own_classes = self.learned
        load_learned(module, for_own_classes(state, folder, classnames), source, unused)

    def refuse_other_classes(self, classnames: str | None, source: str) -> None:
        """Check that tensors that stand for one class each were trained on these class names.

        Args:
            classnames: digest of the names of the training (`classnames_digest`); None: not recorded.
            source: the file that the tensors are from.

        Raises:
            UserError: they were trained on others.
        """
        if self.prompts.class_specific and classnames not in (None, classnames_digest(self.classes)):
            raise UserError(f"{source}: its prompts are class-specific (CSC), they do not fit other class names")

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        with self.precision.autocast():
            text = None if self.prompts.text_depends_on_image else self.text_features()
            images = images.to(self.device, non_blocking=True)
            return self.captured(self._logits, (self.theta(),), images, text)

    def _logits(self, theta: Theta, images: Tensor, text: Tensor | None) -> Tensor:
        return self.prompts.logits(theta, images, text)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Normalised features [B, e] of images [B, 3, H, W]."""
        with self.precision.autocast():
            return normalised(self.prompts.image_features(self.theta(), images.to(self.device)))

    @torch.no_grad()
    def text_features(self) -> Tensor:
        """Normalised features [C, e] of the classes, encoded again only after a learned tensor has changed.

        Raises:
            UserError: they depend on the image.
        """
        if self.prompts.text_depends_on_image:
            raise UserError("this method encodes the classes for each image: ask for logits instead of text features")
        state = [_state(tensor) for tensor in self.prompts.tensors().values()]
        if self._text_cache is None or self._text_cache[0] != state:
            with self.precision.autocast():
                self._text_cache = state, normalised(self.prompts.text_features(self.theta()))
        return self._text_cache[1]

    def checked_models(self) -> dict[str, nn.Module | None]:
        """Where to look for tensors that are not finite."""
        learned = {self.learned.name: self.learned.module} if self.prompts.tensors() else {}
        return {**learned, "frozen CLIP": self.clip}


def _state(tensor: Tensor) -> tuple[int, int, int, torch.dtype]:
    """Differs once a tensor is replaced, moved, or changed in place (by anything but writing to its `.data`)."""
    return id(tensor), tensor._version, tensor.data_ptr(), tensor.dtype
