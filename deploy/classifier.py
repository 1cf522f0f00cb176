"""A trained classifier as a Python object: images in, class names with probabilities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from dassl.engine.anomalies import check_logits
from dassl.utils import UserError, progress_bar
from deploy.images import ImageBatch, batches, find_images
from deploy.load import Trained, TrainedFolder, load_trained


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, or the error that kept it from being read."""

    image: str
    classes: tuple[str, ...] = ()
    """In descending order of their probabilities."""
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class Classifier:
    """A trained method with its class names (see `load_classifier`)."""

    def __init__(self, trained: Trained) -> None:
        from dassl.data.transforms import build_transform  # which waits for torchvision

        self.cfg, self.model = trained
        self.classnames: list[str] = self.model.classes
        self.device: torch.device = self.model.device
        transform = build_transform(self.cfg, is_train=False)
        if transform is None:
            raise UserError("the run has INPUT.NO_TRANSFORM: its images cannot be put into batches")
        self.transform: Callable[[Image], Tensor] = transform
        """From an RGB PIL image to a tensor [3, H, W], as in the run's evaluation."""

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] that went through `transform`: those of the trainer's own test."""
        return self.model.logits(images)

    def predict(
        self,
        images: Sequence[str | os.PathLike[str]],
        topk: int = 5,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """Yield a `Prediction` for each image, in the order of the images.

        Args:
            images: files and folders.
            topk: classes for each image; all, if there are fewer.
            batch_size: images at a time; None: the run's test batch.
            workers: processes that read images; None: chosen from the number of images.

        Raises:
            UserError: a place does not exist, a folder has no images, or a number is invalid.
        """
        if topk < 1:
            raise UserError(f"topk must be positive, not {topk}")
        paths = find_images(images)
        size: int = self.cfg.DATALOADER.TEST.BATCH_SIZE if batch_size is None else batch_size
        given = self.cfg.INPUT
        loader = batches(paths, self.transform, size, workers, given.MAX_PIXELS, given.MAX_ASPECT_RATIO)
        return self._stream(loader, len(paths), min(topk, len(self.classnames)))

    def _stream(self, loader: Iterable[ImageBatch], count: int, topk: int) -> Iterator[Prediction]:
        with progress_bar(total=count, desc="predict", unit="image") as bar:
            for paths, errors, pixels in loader:
                read = [path for path, error in zip(paths, errors, strict=True) if error is None]
                best = iter(self._best(read, pixels, topk) if read else ())
                for path, error in zip(paths, errors, strict=True):
                    if error is not None:
                        yield Prediction(path, error=error)
                        continue
                    probabilities, labels = next(best)
                    yield Prediction(path, tuple(self.classnames[label] for label in labels), tuple(probabilities))
                bar.update(len(paths))

    def _best(self, paths: Sequence[str], pixels: Tensor, topk: int) -> Iterator[tuple[list[float], list[int]]]:
        """Probabilities and labels of each image's best classes.

        Raises:
            NonFiniteError: a value is infinite or NaN.
        """
        logits = self.logits(pixels).float()  # [B, C]
        check_logits(logits, paths, self.model.checked_models())
        probabilities, labels = logits.softmax(dim=-1).topk(topk)  # [B, k] each
        return zip(probabilities.tolist(), labels.tolist(), strict=True)


def load_classifier(
    checkpoint: str | os.PathLike[str],
    classnames: Sequence[str] | None = None,
    device: str = "auto",
    epoch: int | None = None,
    config_file: str = "",
    trainer: str = "",
    options: Sequence[str] = (),
) -> Classifier:
    """A classifier from the output folder of a training run, or from an exported folder.

    Args:
        checkpoint: the folder.
        classnames: any classes; None: those of the training.
        device: "cpu", "cuda", or "auto" for CUDA if it is available.
        epoch, config_file, trainer, options: see `deploy.load.TrainedFolder`.

    Raises:
        UserError: the folder cannot be used; the message says why.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was requested, but PyTorch does not see a GPU")
    source = TrainedFolder(checkpoint, epoch, config_file, trainer, options)
    return Classifier(load_trained(source, classnames, use_cuda=device != "cpu"))
