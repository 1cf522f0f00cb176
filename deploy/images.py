"""A stream of image batches from files and folders. An image that cannot be read becomes an error in its batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from dassl.data.data_manager import ImageLoader
from dassl.utils import (
    MAX_ASPECT_RATIO,
    MAX_PIXELS,
    MissingFileError,
    UserError,
    image_suffixes,
    images_below,
    read_image,
)
from dassl.utils.threads import usable_cores
from datasets.layout.files import left_out

MAX_WORKERS = 4
MIN_BATCHES_PER_WORKER = 4


def find_images(places: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Paths of the images: files as given, and those in folders and their subfolders, in ascending order.

    Raises:
        UserError: a place does not exist, or a folder has no image.
    """
    found: list[str] = []
    for place in [os.fspath(each) for each in places]:
        if os.path.isdir(place):
            inside = images_below(place)[0]
            if not inside:
                raise MissingFileError(f"no image below {place} (looked for {', '.join(image_suffixes())})")
            found += inside
        elif os.path.lexists(place):  # one that is not a regular file is reported when it is read
            found.append(place)
        else:
            raise MissingFileError(f"no such image or folder: {place}")
    return found


def left_out_below(places: Sequence[str | os.PathLike[str]], used: Sequence[str]) -> list[str]:
    """A line for each given folder with files that are not classified."""
    lines, used_paths = [], set(used)
    for folder in [os.fspath(place) for place in places if os.path.isdir(place)]:
        others = [path for path in images_below(folder)[1] if path not in used_paths]
        if others:
            lines.append(left_out(others, folder))
    return lines


class ImageBatch(NamedTuple):
    """Some images, in the order of the list."""

    paths: list[str]
    errors: list[str | None]
    """The error of each image, None for a readable one."""
    pixels: Tensor
    """[readable images, 3, H, W], normalised."""


def batches(
    paths: Sequence[str],
    transform: Callable[[Image], Tensor],
    batch_size: int,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    max_aspect_ratio: int = MAX_ASPECT_RATIO,
) -> ImageLoader:
    """A loader of `ImageBatch`es; only a few are in memory at a time.

    Args:
        workers: processes that read images; None: none for a few batches, up to four for a long list.
        max_pixels: an image with more pixels is an error.
        max_aspect_ratio: an image that is more than this many times as long as wide is an error.

    Raises:
        UserError: the batch size or the number of workers is invalid.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be positive, not {batch_size}")
    if workers is not None and workers < 0:
        raise UserError(f"the number of workers cannot be negative: {workers}")
    if workers is None:
        enough = len(paths) > MIN_BATCHES_PER_WORKER * batch_size
        workers = min(MAX_WORKERS, usable_cores() - 1) if enough else 0
    return ImageLoader(
        _Images(paths, transform, max_pixels, max_aspect_ratio),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )


@dataclass
class _Images(Dataset):
    """Path and pixels of each image, or path and error."""

    paths: Sequence[str]
    transform: Callable[[Image], Tensor]
    max_pixels: int
    max_aspect_ratio: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Tensor | str]:
        path = self.paths[index]
        try:
            return path, self.transform(read_image(path, self.max_pixels, self.max_aspect_ratio))
        except UserError as error:
            return path, str(error)


def _collate(items: list[tuple[str, Tensor | str]]) -> ImageBatch:
    readable = [content for _, content in items if isinstance(content, Tensor)]
    errors = [None if isinstance(content, Tensor) else content for _, content in items]
    return ImageBatch([path for path, _ in items], errors, torch.stack(readable) if readable else torch.empty(0))
