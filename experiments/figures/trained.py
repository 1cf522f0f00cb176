"""The trained model of a run, as the figures see it: features before and after training, and images to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from yacs.config import CfgNode

from dassl.data.datasets import build_dataset
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.run_record import CONFIG_NAME, has_record
from dassl.utils import MismatchError, MissingFileError, UserError
from deploy.images import batches, find_images
from deploy.load import TrainedFolder, load_trained
from runner.result import read_result
from trainers.core.facts import learns
from trainers.core.precision import Precision
from trainers.core.prompts import Prompts, Theta, normalised
from trainers.core.templates import readable, template_features, template_for
from trainers.core.trainer import PromptTrainer

UNKNOWN = -1
"""Label of an image whose class is not known."""


class Labelled(NamedTuple):
    """A file with its class, or `UNKNOWN`."""

    path: str
    label: int


class Features(NamedTuple):
    """Normalised features of images [N, e] and of classes [C, e]."""

    images: Tensor
    classes: Tensor | None
    """None: the method has others for each image."""


@dataclass(frozen=True)
class TrainedRun:
    """A run with its model.

    Args:
        folder: of the run.
        cfg: the model's configuration; its DATASET is what the run was evaluated on.
        prompts: learned tensors and encoders around the frozen CLIP.
        precision: where and how to compute.
        classnames: C names.
    """

    folder: Path
    cfg: CfgNode
    prompts: Prompts
    precision: Precision
    classnames: list[str]

    @property
    def name(self) -> str:
        """The method's."""
        return self.cfg.TRAINER.NAME

    @cached_property
    def transform(self) -> Callable[[Image], Tensor]:
        """From an RGB image to a tensor [3, H, W], as in the run's evaluation.

        Raises:
            UserError: it has none.
        """
        from dassl.data.transforms import build_transform  # which waits for torchvision

        transform = build_transform(self.cfg, is_train=False)
        if transform is None:
            raise UserError(f"{self.folder} has INPUT.NO_TRANSFORM: its images cannot be put into batches")
        return transform

    def theta(self) -> Theta:
        """The learned tensors."""
        return {name: tensor.detach() for name, tensor in self.prompts.tensors().items()}

    def pixels(self, images: Sequence[Labelled]) -> Iterator[Tensor]:
        """Batches [B, 3, H, W] of the images, on the model's device.

        Raises:
            UserError: an image cannot be read.
        """
        given, size = self.cfg.INPUT, self.cfg.DATALOADER.TEST.BATCH_SIZE
        paths = [image.path for image in images]
        for batch in batches(paths, self.transform, size, None, given.MAX_PIXELS, given.MAX_ASPECT_RATIO):
            for error in filter(None, batch.errors):
                raise UserError(error)
            yield batch.pixels.to(self.precision.device)

    def shown(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] of the model's input as colours from 0 to 1, [B, H, W, 3]."""
        pixels = pixels.float().cpu()
        if "normalize" in self.cfg.INPUT.TRANSFORMS:
            mean, std = (torch.tensor(self.cfg.INPUT[key]).view(3, 1, 1) for key in ("PIXEL_MEAN", "PIXEL_STD"))
            pixels = pixels * std + mean
        return pixels.clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def features(self, images: Sequence[Labelled]) -> tuple[Features, Features]:
        """Those of the frozen CLIP with the data set's hand-written prompt, and those of the trained model."""
        clip, prompts, theta = self.prompts.clip, self.prompts, self.theta()
        before, after = [], []
        with self.precision.autocast():
            for pixels in self.pixels(images):
                before.append(normalised(clip.encode_image(pixels)).cpu())
                after.append(normalised(prompts.image_features(theta, pixels)).cpu())
            (words,) = template_features(clip, self.classnames, [template_for(self.cfg.DATASET.NAME)])
            learned = None if prompts.text_depends_on_image else normalised(prompts.text_features(theta)).cpu()
        return Features(torch.cat(before), normalised(words).cpu()), Features(torch.cat(after), learned)

    def test_images(self) -> list[Labelled]:
        """The test images of the data set that the run was evaluated on.

        Raises:
            UserError: they are not there, or have other classes.
        """
        dataset = _dataset(self.cfg)
        if list(dataset.classnames) != self.classnames:
            raise MismatchError(f"the data set {self.cfg.DATASET.NAME} has other classes than {self.folder}")
        if not dataset.test:
            raise MissingFileError(f"the data set {self.cfg.DATASET.NAME} has no test images: name some with --images")
        return [Labelled(item.impath, item.label) for item in dataset.test]

    def given_images(self, place: Path) -> list[Labelled]:
        """A file, or all images below a folder; those in a folder with a class's name are of this class."""
        labels = {_comparable(name): label for label, name in enumerate(self.classnames)}
        paths = find_images([place])
        return [Labelled(path, labels.get(_comparable(Path(path).parent.name), UNKNOWN)) for path in paths]

    def images(self, place: Path | None) -> list[Labelled]:
        """Those given, or else the test images."""
        return self.test_images() if place is None else self.given_images(place)


def _comparable(name: str) -> str:
    return " ".join(readable(name).lower().split())


def _dataset(cfg: CfgNode) -> Any:
    """The data set as a reader gives it, all images of it and without a few-shot draw."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.NUM_SHOTS, cfg.DATASET.FEWSHOT_SPLIT, cfg.VERBOSE = -1, "", False
    return build_dataset(cfg)


def load_run(folder: Path, root: str = "") -> TrainedRun:
    """The model of a run: that of its training, or the one that it evaluated, with the classes of the evaluation.

    Args:
        folder: of the run.
        root: folder of the data sets; "": as recorded.

    Raises:
        UserError: it learned nothing, its trainer is of another repository, or the model cannot be loaded.
    """
    result = read_result(folder) or {}
    model = result.get("model")
    source = TrainedFolder(folder) if model is None else TrainedFolder(model["folder"], model.get("load_epoch"))
    _check_is_recorded(Path(source.folder), folder)
    record = source.record(None)
    _check_learns(record.cfg.TRAINER.NAME, folder)
    data = _data_settings(record.cfg, result.get("full_config", {}) if model is not None else {}, folder, root)
    classnames = record.classnames if model is None else list(_dataset(data).classnames)
    loaded: Any = load_trained(source, classnames).model
    return TrainedRun(folder, data, loaded.prompts, loaded.precision, classnames)


def _check_is_recorded(model: Path, folder: Path) -> None:
    """Check that the model's folder has the record of a run of this project.

    Raises:
        MissingFileError: it does not.
    """
    if not model.is_dir():
        raise MissingFileError(
            f"the model that {folder} evaluated is not at {model}: move it there, or give its folder"
        )
    if not has_record(model):
        raise MissingFileError(f"{model} has no {CONFIG_NAME}: give the folder of a training run of this project")


def _check_learns(trainer: str, folder: Path) -> None:
    """Check that the trainer learns prompts of this project.

    Raises:
        UserError: it does not.
    """
    kind = TRAINER_REGISTRY.get(trainer)
    if not issubclass(kind, PromptTrainer):
        why = (
            "learns nothing: before and after are the same"
            if not learns(trainer)
            else "is not built on this project's prompts: its features cannot be drawn"
        )
        raise UserError(f"{folder} is a run of {trainer}, which {why}")


def _data_settings(cfg: CfgNode, evaluated: dict, folder: Path, root: str) -> CfgNode:
    """The configuration with the data set of the evaluation `evaluated` (empty: of the training)."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in evaluated.get("DATASET", {}).items():
        if key in cfg.DATASET:
            cfg.DATASET[key] = tuple(value) if isinstance(value, list) else value
    cfg.OUTPUT_DIR = str(folder)  # it may have been moved
    if root:
        cfg.DATASET.ROOT = root
    return cfg
