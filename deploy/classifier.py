"""A trained classifier as a Python object: images in, class names with probabilities out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dassl.engine.anomalies import check_logits
from dassl.utils import UserError, progress_bar
from deploy.images import batches, find_images
from deploy.load import Source, Trained, load_trained


@dataclass(frozen=True)
class Prediction:
    """What an image shows; or why it could not be read."""

    image: str
    classes: tuple[str, ...] = ()
    """The most probable first."""
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class Classifier:
    """A trained method and the classes that it tells apart (see `load_classifier`)."""

    def __init__(self, trained: Trained) -> None:
        from dassl.data.transforms import build_transform  # which waits for torchvision

        self.cfg, self.model = trained
        self.classnames: list[str] = self.model.classes
        self.device: torch.device = self.model.device
        self.transform = build_transform(self.cfg, is_train=False)
        """From an RGB PIL image to a tensor [3, H, W], as in the run's evaluation."""
        if self.transform is None:
            raise UserError("the run has INPUT.NO_TRANSFORM: its images cannot be put into batches")

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
        """One `Prediction` after the other, in the order of the images; nothing is kept.

        Args:
            images: files and folders.
            topk: classes named for each image; all, where there are fewer.
            batch_size: None: the run's test batch.
            workers: reading processes; None: as many as the list is worth.
        Raises:
            UserError: a place that does not exist, a folder without images, a number that makes no sense.
        """
        if topk < 1:
            raise UserError(f"topk must be positive, not {topk}")
        paths = find_images(images)
        if batch_size is None:
            batch_size = self.cfg.DATALOADER.TEST.BATCH_SIZE
        given = self.cfg.INPUT
        loader = batches(paths, self.transform, batch_size, workers, given.MAX_PIXELS, given.MAX_ASPECT_RATIO)
        return self._stream(loader, len(paths), min(topk, len(self.classnames)))

    def _stream(self, loader: object, count: int, topk: int) -> Iterator[Prediction]:
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
        """Probabilities and labels of each image's best classes. Raises NonFiniteError for NaN or infinity."""
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
        classnames: any classes; None: those it was trained on.
        device: "cpu", "cuda", or "auto" for CUDA where it is at hand.
        epoch, config_file, trainer, options: see `deploy.load.Source`.
    Raises:
        UserError: the folder cannot be used; the message says why.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda is asked for, but PyTorch sees none")
    source = Source(checkpoint, epoch, config_file, trainer, options)
    return Classifier(load_trained(source, classnames, use_cuda=device != "cpu"))
