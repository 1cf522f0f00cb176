"""A trainer to measure: random weights, random batches, class names of ImageNet; and the clock for it."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clip.backbones.open_clip_files import open_clip_module
from clip.model import CLIP
from dassl.config import merge_file, merge_opts
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, set_random_seed, write_text_atomically
from experiments.plan.methods import METHODS, default_config_file
from runner.config import default_cfg
from tools.baseline import plain_evaluation, plain_step
from trainers.coprompt import CoPrompt
from trainers.core.facts import BASE_TO_NEW
from trainers.core.method import prompted_clip
from trainers.core.prompts import normalised
from trainers.core.replay import CpuRecorder
from trainers.core.trainer import PromptTrainer

TEXT = dict(context_length=77, vocab_size=49408)
BACKBONES = {
    "ViT-B/32": dict(TEXT, embed_dim=512, image_resolution=224, vision_layers=12, vision_width=768,
                     vision_patch_size=32, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "ViT-B/16": dict(TEXT, embed_dim=512, image_resolution=224, vision_layers=12, vision_width=768,
                     vision_patch_size=16, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "ViT-L/14": dict(TEXT, embed_dim=768, image_resolution=224, vision_layers=24, vision_width=1024,
                     vision_patch_size=14, transformer_width=768, transformer_heads=12, transformer_layers=12),
    "RN50": dict(TEXT, embed_dim=1024, image_resolution=224, vision_layers=(3, 4, 6, 3), vision_width=64,
                 vision_patch_size=None, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "tiny": dict(TEXT, embed_dim=64, image_resolution=32, vision_layers=3, vision_width=64,
                 vision_patch_size=8, transformer_width=64, transformer_heads=1, transformer_layers=3),
}  # fmt: skip
RECIPES: dict[str, str] = {}
"""The config file of each trainer that learns: its first method's, for base-to-new on any data set."""
for _method in METHODS.values():
    if _method.learns:
        _config = default_config_file(_method, BASE_TO_NEW, "", shots=16)
        RECIPES.setdefault(_method.trainer, str(_method.config_path(_config.stem)))
ONE_OPTIMISER = ["OPTIM.NAME", "sgd", "OPTIM.LR", 0.0025, "OPTIM.WARMUP_EPOCH", -1]
"""The same for every method, and without warm-up, so that one step changes enough to be compared."""
LAYER_KEYS = (
    *("PROMPT_DEPTH", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION"),
    *("CLASS_LAYER", "ADAPTER_START", "ADAPTER_END"),
)
"""Keys that count layers; they mean the same in every method."""


def imagenet_names(count: int) -> list[str]:
    """ImageNet's first class names."""
    names = open_clip_module("zero_shot_metadata").IMAGENET_CLASSNAMES
    if not 0 < count <= len(names):
        raise UserError(f"--classes {count}: choose 1 to {len(names)}, the number of ImageNet's classes")
    return names[:count]


@DATASET_REGISTRY.register()
class BenchmarkNames(DatasetBase):
    """ImageNet's first class names, with one blank image for all; steps get random pixels instead."""

    def __init__(self, cfg: Any) -> None:
        names = imagenet_names(int(cfg.DATASET.ROOT))
        blank = str(Path(cfg.OUTPUT_DIR, "blank.png"))
        Image.new("RGB", (8, 8)).save(blank)
        items = [Datum(impath=blank, label=label, classname=name) for label, name in enumerate(names)]
        super().__init__(train_x=items, test=items)


class Bench:
    """One trainer with random weights and fixed random batches."""

    def __init__(self, args: argparse.Namespace, classes: int, folder: str) -> None:
        cfg = default_cfg()
        config_file = getattr(args, "config_file", None)  # of a run that is planned
        merge_file(cfg, config_file or RECIPES[args.trainer])
        sizes, kind = BACKBONES[args.backbone], TRAINER_REGISTRY.get(args.trainer)
        size, node = sizes["image_resolution"], cfg.TRAINER[kind.config_node]
        merge_opts(
            cfg,
            [
                *("TRAINER.NAME", args.trainer, "DATASET.NAME", "BenchmarkNames"),
                *("OUTPUT_DIR", folder, "INPUT.SIZE", (size, size), "DATALOADER.NUM_WORKERS", 0, "VERBOSE", False),
                *("USE_CUDA", args.device == "cuda"),
                *([] if config_file else ONE_OPTIMISER),
            ],
        )
        node.PREC = args.prec or node.PREC
        for key in LAYER_KEYS:
            if key in node:  # CLASS_LAYER counts layers from 0
                node[key] = min(node[key], sizes["transformer_layers"] - (key == "CLASS_LAYER"))
        if "DROPOUT" in node and not config_file:
            node.DROPOUT = 0.0  # it is drawn for the rows that are computed, and the plain way computes others
        merge_opts(cfg, args.opts)
        cfg.DATASET.ROOT = str(classes)
        set_random_seed(args.seed)
        clip = CLIP(**sizes).requires_grad_(False).eval()
        prompted = prompted_clip(cfg, imagenet_names(classes), args.device, clip)
        # the teacher's text features are computed once before training and are no part of a step
        teacher = torch.randn(classes, clip.text_projection.shape[1]).to(prompted.device)
        given = {"teacher_text": teacher} if issubclass(kind, PromptTrainer) else {}
        self.trainer: PromptTrainer = kind(cfg, prompted, **given)
        self.trainer.num_batches, self.trainer.batch_idx, self.trainer.epoch = 10**9, 1, 0
        labels = torch.arange(args.batch_size) % classes
        self.batch = {"img": torch.randn(args.batch_size, 3, size, size), "label": labels}
        if cfg.DATALOADER.K_TRANSFORMS == 2:
            self.batch["img2"] = self.batch["img"].flip(-1)
        trainer = self.trainer
        if isinstance(trainer, CoPrompt):  # encoded once before training, and no part of a step
            joint = clip.text_projection.shape[1]
            trainer.descriptions = normalised(torch.randn(2, classes, joint, device=trainer.device))
        self.test_images = torch.randn(args.eval_batch_size, 3, size, size, device=self.trainer.device)
        self.seed = args.seed
        self.initial = [
            (module, {name: value.clone() for name, value in module.state_dict().items()})
            for module in self.trainer._models.values()
        ]

    def reset(self) -> None:
        """Back to the first weights, optimiser states and random numbers."""
        for module, state in self.initial:
            module.load_state_dict(state)
        for optimizer in self.trainer._optims.values():
            optimizer.state.clear()
        self.trainer.scaler = self.trainer.precision.grad_scaler()
        torch.manual_seed(self.seed)

    def warm_up(self, run: Callable[[], object]) -> None:
        """Call what is about to be timed until it is captured."""
        for _ in range(3 if self.trainer.device.type == "cuda" else CpuRecorder.first_recorded_call):
            run()

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Median seconds of a call that is warm."""
        return interleaved({"": run}, repeats, self.trainer.device)[""]["seconds"]

    def step(self) -> None:
        self.trainer.forward_backward(self.batch)

    def plain_step(self) -> None:
        plain_step(self.trainer, self.batch)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        return self.trainer.model_inference(self.test_images)

    def plain_evaluate(self) -> Tensor:
        return plain_evaluation(self.trainer, self.test_images)

    def deviation(self) -> tuple[float, float]:
        """Largest difference between learned tensors (phi's too) after one step of each from the same state; and the
        largest change that the step made to them."""
        results = [[value for _, state in self.initial for value in state.values()]]
        for step in (self.step, self.plain_step):
            self.reset()
            step()
            results.append([value.clone() for module, _ in self.initial for value in module.state_dict().values()])
        self.reset()
        start, ours, plain = results
        return _largest_difference(ours, plain), _largest_difference(start, plain)

    def evaluation_deviation(self) -> float:
        """Largest difference between the logits."""
        return (self.evaluate() - self.plain_evaluate()).abs().max().item()


def _largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wait_for(device)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    wait_for(device)
    return time.perf_counter() - wall, time.process_time() - processor


def interleaved(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, dict]:
    """Median seconds of each, run in turn. The caller has warmed them up."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run, device))
    return {
        name: {"seconds": statistics.median(w for w, _ in times), "cpu_seconds": statistics.median(c for _, c in times)}
        for name, times in seconds.items()
    }


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What a report says about how it was made."""
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items() if name != "json"}
    if args.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    return settings


def write_report(args: argparse.Namespace, **content: Any) -> None:
    """Write the figures into the file of --json, if there is one.

    Raises:
        UnwritableFileError: it cannot be written.
    """
    if args.json:
        report = {"settings": settings_of(args), "torch": torch.__version__} | content
        write_text_atomically(args.json, json.dumps(report, indent=1))
