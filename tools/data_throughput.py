"""Measure how fast images are loaded, against torchvision's plain ImageFolder with the same transforms.

    python -m tools.data_throughput --images 256 --workers 0 2

Makes 500x375 JPEGs in a temporary folder, reads them as a run with a ViT-B/16 configuration would, and prints images a
second for the train and the test pipeline. The two loaders take turns, so that other load on the machine hits both.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from yacs.config import CfgNode

import datasets
from dassl.command_line import ArgumentParser, errors_in_one_line, number_from
from dassl.config import get_cfg_default
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import build_dataset
from dassl.data.transforms import build_transform
from dassl.utils import UserError

WIDTH, HEIGHT = 500, 375
CLASSES = 8


def make_images(folder: str, count: int) -> None:
    """Write `count` JPEGs of about 60 kB, half to train/ and half to test/, in class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 255, (HEIGHT // 12, WIDTH // 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + rng.integers(-12, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        here = Path(folder, ("train", "test")[number % 2], f"class_{number // 2 % CLASSES}")
        here.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(here / f"{number}.jpg", quality=90)


def configuration(folder: str, workers: int, batch_size: int) -> CfgNode:
    """The image settings of CoOp's ViT-B/16 files."""
    cfg = get_cfg_default()
    datasets.add_config(cfg)
    cfg.merge_from_list(
        [
            *("DATASET.NAME", "ImageFolder", "DATASET.PATH", folder, "VERBOSE", False),
            *("DATALOADER.NUM_WORKERS", workers, "DATALOADER.TRAIN_X.BATCH_SIZE", batch_size),
            *("DATALOADER.TEST.BATCH_SIZE", batch_size, "INPUT.SIZE", (224, 224), "INPUT.INTERPOLATION", "bicubic"),
            *("INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize")),
        ]
    )
    return cfg


def plain_transform(cfg: CfgNode, is_train: bool) -> Callable:
    """The same transforms as torchvision users write them."""
    size, bicubic = cfg.INPUT.SIZE, transforms.InterpolationMode.BICUBIC
    crop = (
        [transforms.RandomResizedCrop(size, interpolation=bicubic), transforms.RandomHorizontalFlip()]
        if is_train
        else [transforms.Resize(size[0], interpolation=bicubic), transforms.CenterCrop(size)]
    )
    normalize = transforms.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    return transforms.Compose([*crop, transforms.ToTensor(), normalize])


def loaders(cfg: CfgNode, is_train: bool) -> tuple[DataLoader, DataLoader]:
    """Our loader and torchvision's for the same images, transforms, batch size and workers."""
    dataset = build_dataset(cfg)
    settings = cfg.DATALOADER.TRAIN_X if is_train else cfg.DATALOADER.TEST
    ours = build_data_loader(
        cfg,
        sampler_type=settings.SAMPLER,
        data_source=dataset.train_x if is_train else dataset.test,
        batch_size=settings.BATCH_SIZE,
        tfm=build_transform(cfg, is_train=is_train),
        is_train=is_train,
    )
    theirs = DataLoader(
        ImageFolder(Path(cfg.DATASET.PATH, "train" if is_train else "test"), plain_transform(cfg, is_train)),
        batch_size=settings.BATCH_SIZE,
        shuffle=is_train,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train,
    )
    return ours, theirs


def seconds_in_turns(pair: Sequence[DataLoader], repeats: int) -> list[float]:
    """CPU seconds of both loaders for one pass, batch by batch in turns; with the same crops for both."""
    total = [0.0, 0.0]
    for repeat in range(repeats):
        iterators = []
        for loader in pair:
            torch.manual_seed(repeat)
            iterators.append(iter(loader))
        for step in range(len(pair[0])):
            for which in (0, 1) if step % 2 else (1, 0):
                torch.manual_seed(step)
                start = time.process_time()
                next(iterators[which])
                total[which] += time.process_time() - start
    return [time_ / repeats for time_ in total]


def seconds_by_pass(pair: Sequence[DataLoader], repeats: int) -> list[float]:
    """Wall seconds of the best pass of each loader, pass by pass in turns."""
    best = [math.inf, math.inf]
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 else (1, 0):
            start = time.perf_counter()
            for _ in pair[which]:
                pass
            best[which] = min(best[which], time.perf_counter() - start)
    return best


def compare_loaders(cfg: CfgNode, is_train: bool, repeats: int) -> str:
    """One line: images a second of both loaders and their ratio (above 1: ours is faster).

    Without workers all work is done in this process, so other load on the machine does not
    change its CPU time.
    """
    pair = loaders(cfg, is_train)
    workers = cfg.DATALOADER.NUM_WORKERS
    measure, kind = (seconds_by_pass, "wall") if workers else (seconds_in_turns, "CPU")
    measure(pair, 1)  # warm-up: file cache, imports
    ours, theirs = measure(pair, repeats)
    images = len(pair[0]) * (cfg.DATALOADER.TRAIN_X if is_train else cfg.DATALOADER.TEST).BATCH_SIZE
    return (
        f"{'train' if is_train else 'test':5s} workers {workers}: {images / ours:6.1f} images/s, torchvision's "
        f"ImageFolder {images / theirs:6.1f} images/s ({kind} time), ratio {theirs / ours:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m tools.data_throughput",
        description="Measure how fast images are loaded, against torchvision's plain ImageFolder.",
        examples=("--images 256 --workers 0 2",),
    )
    parser.add_argument("--images", type=int, default=256, help="images to make, half for each pipeline")
    parser.add_argument("--workers", type=number_from(0), nargs="+", default=[0, 2], help="numbers of worker processes")
    parser.add_argument("--repeats", type=number_from(1), default=7, help="passes over the images")
    parser.add_argument("--batch-size", type=number_from(1), default=16, help="images a batch")
    args = parser.parse_args(argv)
    images = args.images // (2 * args.batch_size) * 2 * args.batch_size
    if images < 2 * max(CLASSES, args.batch_size):
        raise UserError(f"--images {args.images} is too few for batches of {args.batch_size}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_images(folder, images)
        for workers in args.workers:
            cfg = configuration(folder, workers, args.batch_size)
            for is_train in (True, False):
                print(compare_loaders(cfg, is_train, args.repeats), flush=True)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
