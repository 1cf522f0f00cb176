"""Augmentations that torchvision does not have."""

from __future__ import annotations

import random

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode


class Random2DTranslation:
    """With probability `p`: enlarge by an eighth and crop at random; otherwise resize. Result [height, width]."""

    def __init__(
        self, height: int, width: int, p: float = 0.5, interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.p = p
        self._resize = transforms.Resize((height, width), interpolation=interpolation)
        self._enlarge_and_crop = transforms.Compose(
            [
                transforms.Resize((round(height * 1.125), round(width * 1.125)), interpolation=interpolation),
                transforms.RandomCrop((height, width)),
            ]
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        return self._resize(image) if random.uniform(0, 1) > self.p else self._enlarge_and_crop(image)


class Cutout:
    """Set `n_holes` squares of `length` pixels at random places of an image [channels, height, width] to 0.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.
    """

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        image = image.clone()
        for _ in range(self.n_holes):
            top = int(torch.randint(height, ())) - self.length // 2
            left = int(torch.randint(width, ())) - self.length // 2
            image[..., max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = 0
        return image


class GaussianNoise:
    """Add Gaussian noise to an image tensor."""

    def __init__(self, mean: float = 0.0, std: float = 0.15) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.randn_like(image) * self.std + self.mean


class InstanceNormalization:
    """Shift and scale each channel of an image [channels, height, width] to mean 0 and standard deviation 1."""

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(image, dim=(-2, -1), keepdim=True)  # [channels, 1, 1]
        return (image - mean) / (std + self.eps)
