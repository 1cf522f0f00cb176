"""A recording of our own training run: what two epochs from `set_random_seed` on see and draw.

    python tests/helpers/own_run.py     # writes tests/golden/own_run.json

It is no reference from elsewhere. It is kept so that nothing moves a seed's run unnoticed: the few-shot draw, the order
of images, the augmentation, ProMetaR's tasks. Record it again only when a change of these is wanted, and say so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parent / "golden" / "own_run.json"
WORKERS = (0, 2)
SHOTS = 2
PROBES = (7, 30, 55)
"""Rows and columns of an augmented image whose pixels are kept: on noise, any other crop or flip gives others."""

if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import torch  # noqa: E402
from golden_data import write_backbones  # noqa: E402
from tiny_runs import build_trainer, learned, make_cfg, write_data  # noqa: E402

from dassl.utils import set_random_seed  # noqa: E402
from trainers import prometar  # noqa: E402


def run_and_record(folder: Path, workers: int, changed: Mapping[str, object] | None = None) -> dict:
    """Train for two epochs, as `train.py` does, into `folder`.

    Args:
        changed: config keys with other values than the recorded run has.
    """
    write_data(folder / "data")
    cfg = make_cfg("ProMetaR", write_backbones(folder)["vit"], folder / "data", folder / "out")
    cfg.DATASET.NUM_SHOTS, cfg.DATALOADER.NUM_WORKERS = SHOTS, workers
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.TEST.NO_TEST = True
    for key, value in (changed or {}).items():
        cfg.merge_from_list([key, value])
    set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    start = {name: tensor.flatten()[:3].tolist() for name, tensor in learned(trainer).items()}
    batches = observe(trainer)
    trainer.train()
    return {"start": start, "batches": batches}


def observe(trainer: prometar.ProMetaR) -> list[dict]:
    """What each later batch holds, draws and reports; filled while the trainer trains."""
    batches, step, draw = [], trainer.forward_backward, prometar.sample_task
    tasks = []

    def observed_step(batch: dict) -> dict:
        tasks.clear()
        prometar.sample_task = lambda *arguments: tasks.append(draw(*arguments)) or tasks[-1]
        try:
            summary = step(batch)
        finally:
            prometar.sample_task = draw
        (task,) = tasks
        batches.append(
            {
                "epoch": trainer.epoch,
                "images": ["/".join(Path(path).parts[-2:]) for path in batch["impath"]],
                "labels": batch["label"].tolist(),
                "pixels": batch["img"][:, :, PROBES][..., PROBES].flatten(1).tolist(),
                "task": None if task is None else {name: value.tolist() for name, value in task._asdict().items()},
                "losses": {name: summary[name] for name in ("loss_base", "loss_text", "loss_image")},
            }
        )
        return summary

    trainer.forward_backward = observed_step
    return batches


def rounded(value: object) -> object:
    """JSON content with five digits a number."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {name: rounded(item) for name, item in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    recordings = {}
    for count in WORKERS:
        with tempfile.TemporaryDirectory() as scratch:
            recordings[str(count)] = rounded(run_and_record(Path(scratch), count))
    RECORDING.write_text(json.dumps(recordings, separators=(",", ":")))
