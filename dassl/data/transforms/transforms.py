"""Transforms from the configuration. The order is fixed, whatever the order in `INPUT.TRANSFORMS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode
from yacs.config import CfgNode

from dassl.utils.names import check_availability

from .augmentations import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation
from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch
from .settings import check_input_settings

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

_Makers = dict[str, Callable[[CfgNode], Callable]]
"""By the names of `INPUT.TRANSFORMS`, in the order in which they are applied: from `cfg.INPUT` to a transform."""


def _interpolation(given: CfgNode) -> InterpolationMode:
    return INTERPOLATION_MODES[given.INTERPOLATION]


_CROPS: _Makers = {
    "random_translation": lambda given: Random2DTranslation(given.SIZE[0], given.SIZE[1]),
    "random_crop": lambda given: transforms.RandomCrop(given.SIZE, padding=given.CROP_PADDING),
    "random_resized_crop": lambda given: transforms.RandomResizedCrop(
        given.SIZE, scale=given.RRCROP_SCALE, interpolation=_interpolation(given)
    ),
}
_ON_IMAGES: _Makers = {
    "random_flip": lambda given: transforms.RandomHorizontalFlip(),
    "imagenet_policy": lambda given: transforms.AutoAugment(AutoAugmentPolicy.IMAGENET),
    "cifar10_policy": lambda given: transforms.AutoAugment(AutoAugmentPolicy.CIFAR10),
    "svhn_policy": lambda given: transforms.AutoAugment(AutoAugmentPolicy.SVHN),
    "randaugment": lambda given: RandAugment(given.RANDAUGMENT_N, given.RANDAUGMENT_M),
    "randaugment_fixmatch": lambda given: RandAugmentFixMatch(given.RANDAUGMENT_N),
    "randaugment2": lambda given: RandAugment2(given.RANDAUGMENT_N),
    "colorjitter": lambda given: transforms.ColorJitter(
        given.COLORJITTER_B, given.COLORJITTER_C, given.COLORJITTER_S, given.COLORJITTER_H
    ),
    "randomgrayscale": lambda given: transforms.RandomGrayscale(p=given.RGS_P),
    "gaussian_blur": lambda given: transforms.RandomApply([transforms.GaussianBlur(given.GB_K)], p=given.GB_P),
}
_ON_TENSORS: _Makers = {
    "cutout": lambda given: Cutout(given.CUTOUT_N, given.CUTOUT_LEN),
    # in place: the tensor was made by ToTensor just before
    "normalize": lambda given: transforms.Normalize(given.PIXEL_MEAN, given.PIXEL_STD, inplace=True),
    "gaussian_noise": lambda given: GaussianNoise(given.GN_MEAN, given.GN_STD),
    "instance_norm": lambda given: InstanceNormalization(),
}
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
    steps = _train_steps(cfg.INPUT, choices) if is_train else _test_steps(cfg.INPUT, choices)
    return transforms.Compose(steps)


def _train_steps(given: CfgNode, choices: Sequence[str]) -> list[Callable]:
    steps = []
    # RandomCrop and RandomResizedCrop give the image its size; random_translation expects an image of that size.
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(transforms.Resize(given.SIZE, interpolation=_interpolation(given)))
    steps += [make(given) for name, make in (_CROPS | _ON_IMAGES).items() if name in choices]
    steps.append(transforms.ToTensor())
    steps += [make(given) for name, make in _ON_TENSORS.items() if name in choices]
    return steps


def _test_steps(given: CfgNode, choices: Sequence[str]) -> list[Callable]:
    return [
        transforms.Resize(max(given.SIZE), interpolation=_interpolation(given)),
        transforms.CenterCrop(given.SIZE),
        transforms.ToTensor(),
        *(_ON_TENSORS[name](given) for name in _AT_TEST if name in choices),
    ]


def build_unaugmented_transform(cfg: CfgNode) -> Callable:
    """Resize to SIZE, ToTensor, and normalisation if chosen: for the plain image beside augmented ones."""
    given = cfg.INPUT
    steps = [transforms.Resize(given.SIZE, interpolation=_interpolation(given)), transforms.ToTensor()]
    if "normalize" in given.TRANSFORMS:
        steps.append(_ON_TENSORS["normalize"](given))
    return transforms.Compose(steps)
