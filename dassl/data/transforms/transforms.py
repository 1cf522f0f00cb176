"""Transforms from the configuration. The order is fixed, whatever the order in `INPUT.TRANSFORMS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode
from yacs.config import CfgNode

from dassl.utils.names import check_availability

from .augmentations import (
    Cutout,
    GaussianNoise,
    InstanceNormalization,
    Random2DTranslation,
)
from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch
from .settings import check_input_settings

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

_CROPS = ("random_translation", "random_crop", "random_resized_crop")
_ON_IMAGES = (
    "random_flip",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
)
_ON_TENSORS = ("cutout", "normalize", "gaussian_noise", "instance_norm")
_AT_TEST = ("normalize", "instance_norm")
# center_crop is always applied at test time; older config files name it as a choice.
AVAI_CHOICES = [*_CROPS, *_ON_IMAGES, *_ON_TENSORS, "center_crop"]


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Callable | None:
    """The transform from PIL image to tensor [3, height, width] of `cfg.INPUT`.

    Training: crop (RandomResizedCrop, RandomCrop or a translation; without one, Resize to SIZE), augmentations,
    ToTensor, normalisation. Test: Resize of the shorter side to max(SIZE), CenterCrop, ToTensor, normalisation.

    Args:
        choices: names of transforms, default `cfg.INPUT.TRANSFORMS`.

    Returns:
        The transform; None with `cfg.INPUT.NO_TRANSFORM`.

    Raises:
        UnknownNameError: there is no such transform or interpolation.
        BadValueError: a setting is invalid.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    choices = (choices,) if isinstance(choices, str) else choices
    for choice in choices:
        check_availability(choice, AVAI_CHOICES, kind="transform")
    check_availability(cfg.INPUT.INTERPOLATION, list(INTERPOLATION_MODES), kind="interpolation")
    check_input_settings(cfg.INPUT, choices)
    steps = _train_steps(cfg, choices) if is_train else _test_steps(cfg, choices)
    return transforms.Compose(steps)


def _train_steps(cfg: CfgNode, choices: Sequence[str]) -> list[Callable]:
    steps = []
    # RandomCrop and RandomResizedCrop give the image its size; random_translation expects an image of that size.
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(transforms.Resize(cfg.INPUT.SIZE, interpolation=_interpolation(cfg)))
    steps += [_make(name, cfg) for name in (*_CROPS, *_ON_IMAGES) if name in choices]
    steps.append(transforms.ToTensor())
    steps += [_make(name, cfg) for name in _ON_TENSORS if name in choices]
    return steps


def _test_steps(cfg: CfgNode, choices: Sequence[str]) -> list[Callable]:
    return [
        transforms.Resize(max(cfg.INPUT.SIZE), interpolation=_interpolation(cfg)),
        transforms.CenterCrop(cfg.INPUT.SIZE),
        transforms.ToTensor(),
        *(_make(name, cfg) for name in _AT_TEST if name in choices),
    ]


def build_unaugmented_transform(cfg: CfgNode) -> Callable:
    """Resize to SIZE, ToTensor, and normalisation if chosen: for the plain image beside augmented ones."""
    steps = [transforms.Resize(cfg.INPUT.SIZE, interpolation=_interpolation(cfg)), transforms.ToTensor()]
    if "normalize" in cfg.INPUT.TRANSFORMS:
        steps.append(_make("normalize", cfg))
    return transforms.Compose(steps)


def _interpolation(cfg: CfgNode) -> InterpolationMode:
    return INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]


def _make(name: str, cfg: CfgNode) -> Callable:
    given = cfg.INPUT
    makers: dict[str, Callable[[], Callable]] = {
        "random_translation": lambda: Random2DTranslation(given.SIZE[0], given.SIZE[1]),
        "random_crop": lambda: transforms.RandomCrop(given.SIZE, padding=given.CROP_PADDING),
        "random_resized_crop": lambda: transforms.RandomResizedCrop(
            given.SIZE, scale=given.RRCROP_SCALE, interpolation=_interpolation(cfg)
        ),
        "random_flip": transforms.RandomHorizontalFlip,
        "imagenet_policy": lambda: transforms.AutoAugment(AutoAugmentPolicy.IMAGENET),
        "cifar10_policy": lambda: transforms.AutoAugment(AutoAugmentPolicy.CIFAR10),
        "svhn_policy": lambda: transforms.AutoAugment(AutoAugmentPolicy.SVHN),
        "randaugment": lambda: RandAugment(given.RANDAUGMENT_N, given.RANDAUGMENT_M),
        "randaugment_fixmatch": lambda: RandAugmentFixMatch(given.RANDAUGMENT_N),
        "randaugment2": lambda: RandAugment2(given.RANDAUGMENT_N),
        "colorjitter": lambda: transforms.ColorJitter(
            given.COLORJITTER_B, given.COLORJITTER_C, given.COLORJITTER_S, given.COLORJITTER_H
        ),
        "randomgrayscale": lambda: transforms.RandomGrayscale(p=given.RGS_P),
        "gaussian_blur": lambda: transforms.RandomApply([transforms.GaussianBlur(given.GB_K)], p=given.GB_P),
        "cutout": lambda: Cutout(given.CUTOUT_N, given.CUTOUT_LEN),
        # in place: the tensor was made by ToTensor just before
        "normalize": lambda: transforms.Normalize(mean=given.PIXEL_MEAN, std=given.PIXEL_STD, inplace=True),
        "gaussian_noise": lambda: GaussianNoise(given.GN_MEAN, given.GN_STD),
        "instance_norm": InstanceNormalization,
    }
    return makers[name]()
