"""A method apart from training: its settings, its prompts, and how they are put around a CLIP."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.backbones.open_clip import Pixels
from clip.clip import load_backbone
from clip.kernel_choice import choose_kernels
from clip.model import CLIP
from dassl.config.ranges import Range
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.captured import CapturedFunctions
from trainers.core.learned import LEARNED_NAMES, Learned
from trainers.core.precision import Precision
from trainers.core.prompted_clip import PromptedClip
from trainers.core.prompts import Prompts
from trainers.core.ranges import RANGES_OF_METHODS, check_all_ranges
from trainers.core.recorders import choose_recorder
from trainers.core.unknown_words import warn_of_unknown_words


class Method:
    """What a trainer knows without data. Subclasses set the names and `build_prompts`."""

    config_node: str
    """Node of the method under TRAINER."""
    registered_name: str = "prompts"
    """Folder of its checkpoints, as published."""
    learned_part: str = ""
    """Submodule of the prompts whose state dict is saved; "": all of them."""
    learned_names: Sequence[str] = ()
    """Patterns of the names that published checkpoints give the learned tensors."""
    unused_in_checkpoints: Collection[str] = ()
    """Tensors of published checkpoints that look learned, but that nothing computes with."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """The keys of its node; the comment behind each says what it means."""
    ranges: Mapping[str, Range] = MappingProxyType({})
    """By key of the method's node: the numbers that it may be (see also `trainers.core.ranges`)."""
    choices: Mapping[str, Sequence[str]] = MappingProxyType({})
    """By key of the method's node: the words that it may be."""
    cfg: CfgNode
    classes: list[str]
    """Class names in the order of the logits."""
    precision: Precision
    prompts: Prompts

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        LEARNED_NAMES.update(cls.learned_names)
        if hasattr(cls, "config_node"):
            RANGES_OF_METHODS.setdefault(cls.config_node, {}).update(cls.ranges)

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the method's defaults to `cfg.TRAINER`."""
        if cls.defaults:
            cfg.TRAINER[cls.config_node] = CfgNode(dict(cls.defaults))

    @property
    def settings(self) -> CfgNode:
        """The method's own config node."""
        return self.cfg.TRAINER[self.config_node]

    def check_ranges(self, cfg: CfgNode) -> None:
        """Check the numbers of the configuration.

        Raises:
            BadValueError: a number is out of its range; the message names the key.
        """
        check_all_ranges(cfg)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check that the configuration suits the method.

        Raises:
            UserError: it does not; the message names the key.
        """
        for key, words in self.choices.items():
            if (chosen := cfg.TRAINER[self.config_node][key]) not in words:
                raise UserError(f"TRAINER.{self.config_node}.{key} is {chosen!r}: choose {' or '.join(words)}")

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        """The method's learned tensors and encoders; those of its `family` if it is one (`trainers.core.families`).

        Uses `cfg` and `precision`, and nothing else of a trainer.
        """
        family = getattr(self, "family", None)
        if family is None:
            raise NotImplementedError(f"{type(self).__name__} does not say what it learns")
        return family(clip, classnames, self.settings, f"TRAINER.{self.config_node}")

    def registered_module(self) -> nn.Module:
        """The module whose state dict is saved."""
        return self.prompts.get_submodule(self.learned_part)

    def state_for_own_classes(
        self, state: Mapping[str, Tensor], folder: str, classnames: str | None
    ) -> Mapping[str, Tensor]:
        """The tensors to load from a model that may have been trained on other classes; here all of them.

        Args:
            state: the tensors by name.
            folder: of the run that wrote them.
            classnames: digest of the class names of the training (`classnames_digest`); None: not recorded.

        Returns:
            Tensors by name.
        """
        return state

    def build_prompted_clip(
        self, classes: Sequence[str], device: torch.device, clip: CLIP | None = None
    ) -> PromptedClip:
        """The method's prompts around the CLIP of `MODEL.BACKBONE.NAME`, or around another one."""
        cfg, self.classes = self.cfg, list(classes)
        self.precision = Precision.choose(self.settings.PREC, device)
        choose_kernels(cfg.TRAINER.FUSED, device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(cfg.TRAINER.TF32)
        captured = CapturedFunctions(choose_recorder(cfg.TRAINER.CUDA_GRAPH, cfg.TRAINER.CPU_REPLAY, device))
        backbone = cfg.MODEL.BACKBONE.NAME if clip is None else None
        if clip is None:
            print(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
            clip = load_clip(cfg, self.precision)
            warn_of_unknown_words(clip, self.classes, cfg.MODEL.BACKBONE.NAME)
        else:
            clip = self.precision.convert(clip).to(device)
        self.prompts = self.build_prompts(clip, self.classes).to(device)
        if cfg.TRAINER.TEXT_CHUNK > 0 and self.prompts.context is not None:
            self.prompts.context.recompute_in_chunks(cfg.TRAINER.TEXT_CHUNK)
        learned = Learned(
            self.registered_module(), self.registered_name, self.unused_in_checkpoints, self.state_for_own_classes
        )
        return PromptedClip(self.prompts, learned, self.classes, self.precision, captured, backbone)


def is_method(name: str) -> bool:
    """Whether the registered trainer of that name is built on this project's prompts."""
    return issubclass(TRAINER_REGISTRY.get(name), Method)


def prompted_clip(
    cfg: CfgNode, classes: Sequence[str], device: torch.device | str = "cpu", clip: CLIP | None = None
) -> PromptedClip:
    """The method `cfg.TRAINER.NAME` for some classes, with start values of its prompts; neither trainer nor data.

    Args:
        cfg: a configuration with the keys of all methods (`runner.config.extend_cfg`).
        classes: class names in the order of the logits.
        device: where to compute.
        clip: a CLIP in place of that of `MODEL.BACKBONE.NAME`; it is converted and moved as the method needs it.

    Raises:
        UserError: the trainer is not built on this project's prompts; or a setting or class name does not fit.
    """
    name = cfg.TRAINER.NAME
    if not is_method(name):
        raise UserError(f"TRAINER.NAME {name} is not built on this project's prompts: it needs its trainer")
    kind = TRAINER_REGISTRY.get(name)
    method = kind.__new__(kind)  # not `kind(cfg)`, which would be a trainer: that reads data and prepares training
    method.cfg = cfg
    method.check_ranges(cfg)
    method.check_cfg(cfg)
    return method.build_prompted_clip(classes, torch.device(device), clip)


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
    """Check that the configured images are like those that the backbone was trained on.

    Raises:
        UserError: a setting of the images differs.
    """
    wanted = {"PIXEL_MEAN": list(pixels.mean), "PIXEL_STD": list(pixels.std), "INTERPOLATION": pixels.interpolation}
    for key, value in wanted.items():
        configured = cfg.INPUT[key] if key == "INTERPOLATION" else list(cfg.INPUT[key])
        if configured != value:
            raise UserError(
                f"backbone {cfg.MODEL.BACKBONE.NAME} was trained with {key} {value}, but INPUT.{key} is {configured}: "
                f'set INPUT.{key} "{value}"'
            )
