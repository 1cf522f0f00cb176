"""Pre-trains the small CLIP on the generated image world with the usual contrastive loss.

    python -m shapes_world.pretrain --seed 1

writes `vit_shapes.safetensors` (OpenAI's tensor names, fp16, the token table restricted to the rows that occur)
and `pretrain_log.txt`, and ends with the zero-shot accuracies on the downstream data sets.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm import tqdm

from clip import backbones
from clip.model import CLIP, HEAD_WIDTH
from dassl.command_line import MAX_THREADS, ArgumentParser, errors_in_one_line, number_from, seed_number
from dassl.utils import UserError
from shapes_world.captions import write_caption
from shapes_world.mixture import draw_example
from shapes_world.render import IMAGE_SIZE
from shapes_world.vocabulary import RestrictedTokenizer, known_token_ids
from shapes_world.world import Subject
from shapes_world.zeroshot import evaluate, normalise

SHIPPED = Path(backbones.__file__).resolve().parent
WEIGHTS_NAME = "vit_shapes.safetensors"
LOG_NAME = "pretrain_log.txt"
CONTEXT_LENGTH = 77
MAX_LOGIT_SCALE = math.log(100)
INTERIM_PER_CLASS = 5


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """All settings that influence the result."""

    seed: int = 1
    images: int = 90_000  # pictures rendered
    epochs: int = 4  # passes over them, each with fresh captions
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    embed_dim: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 3
    report_every: int = 50  # steps between two lines of the log
    evaluate_every: int = 350  # steps between two zero-shot evaluations on a few pictures per class
    evaluated_per_class: int | None = None  # test pictures per class in the final zero-shot table; None: all


@dataclasses.dataclass
class Pool:
    """Rendered pictures in memory: uint8 (images, height, width, 3), and what each shows."""

    pictures: np.ndarray
    contents: list[tuple[Subject, str]]  # subject and style


def pretrain(settings: PretrainSettings, out: Path, workers: int = 2) -> dict[str, float]:
    """Render, train, measure; write weights and log into the folder `out`.

    Returns:
        Zero-shot accuracies in percent, named as in `shapes_world.zeroshot.evaluate`.

    Raises:
        UserError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        log_file = _part(out / LOG_NAME).open("w")
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}; choose another folder with --out") from error
    with log_file:
        log = _Log(log_file)
        log(f"settings: {dataclasses.asdict(settings)}")
        log(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {workers} rendering processes")
        torch.manual_seed(settings.seed)
        token_ids = known_token_ids()
        tokenizer = RestrictedTokenizer(token_ids)
        model = new_clip(settings, len(token_ids))
        log(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(token_ids)} token rows")
        pool = render_pool(settings.seed, settings.images, workers)
        log(f"rendered {settings.images} pictures")
        _train(model, pool, tokenizer, settings, log, out)
        tensors = to_file_tensors(model, token_ids)
        round_to_half(model)
        accuracies = evaluate(model, tokenizer, settings.evaluated_per_class)
        for name, accuracy in accuracies.items():
            log(f"zero-shot {name}: {accuracy:.1f}%")
        save_file(tensors, _part(out / WEIGHTS_NAME))
        os.replace(_part(out / WEIGHTS_NAME), out / WEIGHTS_NAME)
        log(f"wrote {WEIGHTS_NAME}, {(out / WEIGHTS_NAME).stat().st_size:,} bytes")
    os.replace(log_file.name, out / LOG_NAME)
    return accuracies


def new_clip(settings: PretrainSettings, vocabulary_size: int) -> CLIP:
    """A newly initialised CLIP of the settings' size."""
    model = CLIP(
        embed_dim=settings.embed_dim,
        image_resolution=IMAGE_SIZE,
        vision_layers=settings.vision_layers,
        vision_width=settings.vision_width,
        vision_patch_size=settings.patch_size,
        context_length=CONTEXT_LENGTH,
        vocab_size=vocabulary_size,
        transformer_width=settings.text_width,
        transformer_heads=settings.text_width // HEAD_WIDTH,
        transformer_layers=settings.text_layers,
    )
    return model.float()


def render_pool(seed: int, images: int, workers: int) -> Pool:
    """Render the first `images` pictures of the pre-training world in `workers` processes."""
    pictures = np.empty((images, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    contents: list[tuple[Subject, str]] = []
    jobs = ((seed, index) for index in range(images))
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        examples = processes.imap(_render_example, jobs, chunksize=256)
        for index, (picture, subject, style) in enumerate(tqdm(examples, "rendering", images, disable=None)):
            pictures[index] = picture
            contents.append((subject, style))
    return Pool(pictures, contents)


def _render_example(job: tuple[int, int]) -> tuple[np.ndarray, Subject, str]:
    image, subject, style = draw_example(*job)
    return np.asarray(image), subject, style


def contrastive_loss(image_features: torch.Tensor, text_features: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss; both features (batch, dim), pairs in the same row."""
    logits = scale * F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T  # (batch, batch)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _train(
    model: CLIP, pool: Pool, tokenizer: RestrictedTokenizer, settings: PretrainSettings, log: _Log, out: Path
) -> None:
    steps_per_epoch = len(pool.contents) // settings.batch_size
    if not steps_per_epoch:
        raise UserError(f"{len(pool.contents)} pictures do not fill one batch of {settings.batch_size}")
    total = steps_per_epoch * settings.epochs
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_cosine(settings.warmup_steps, total))
    rng = np.random.default_rng([settings.seed, settings.images])
    order, losses = np.arange(len(pool.contents)), list[float]()
    model.train()
    for step in tqdm(range(total), "training", disable=None):
        if step % steps_per_epoch == 0:
            order = rng.permutation(len(pool.contents))
        first = step % steps_per_epoch * settings.batch_size
        rows = order[first : first + settings.batch_size]
        captions = [write_caption(*pool.contents[row], rng) for row in rows]
        image_features = model.encode_image(normalise(torch.from_numpy(pool.pictures[rows])))
        text_features = model.encode_text(tokenizer(captions))
        loss = contrastive_loss(image_features, text_features, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        losses.append(loss.item())
        done = step + 1
        if done % settings.report_every == 0 or done == total:
            log(f"step {done}/{total} loss {np.mean(losses):.3f} scale {model.logit_scale.exp().item():.1f}")
            losses.clear()
        if done % settings.evaluate_every == 0 and done < total:
            interim = evaluate(model, tokenizer, INTERIM_PER_CLASS)
            log("zero-shot so far: " + ", ".join(f"{name} {accuracy:.0f}%" for name, accuracy in interim.items()))
            save_file(to_file_tensors(model, tokenizer.token_ids), _part(out / WEIGHTS_NAME))
    model.eval()


def _parameter_groups(model: CLIP, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, gains, embeddings of positions and the scale do not."""
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _warmup_then_cosine(warmup: int, total: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def to_file_tensors(model: CLIP, token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state dict for the shipped file: fp16, with the vocabulary ids of the token table's rows."""
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    return tensors | {"token_embedding.rows": token_ids.long()}


@torch.no_grad()
def round_to_half(model: CLIP) -> None:
    """Round the model's values to those in the file."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())


def _part(path: Path) -> Path:
    """Path of a file until it is complete."""
    return path.with_name(path.name + ".part")


class _Log:
    """Lines with the seconds since the start, to a file and to standard output."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.start = time.monotonic()

    def __call__(self, message: str) -> None:
        line = f"[{time.monotonic() - self.start:7.1f} s] {message}"
        tqdm.write(line)
        print(line, file=self.file, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m shapes_world.pretrain",
        description="Pre-train the small CLIP of the generated image world.",
        examples=("--seed 1 --output-dir pretrained",),
    )
    parser.add_argument(
        "--output-dir", type=Path, default=SHIPPED, old_spellings=("--out",), help="folder for the weights and the log"
    )
    parser.add_argument("--workers", type=number_from(1), default=2, help="rendering processes")
    parser.add_argument(
        "--threads",
        type=number_from(1, MAX_THREADS),
        default=2,
        help="torch threads; another number gives other rounding",
    )
    for field in dataclasses.fields(PretrainSettings):
        kind = float if isinstance(field.default, float) else int
        kind = seed_number if field.name == "seed" else kind
        about = f"{field.name.replace('_', ' ')}{'' if field.default is not None else ' (default: all)'}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=about)
    options = vars(parser.parse_args(arguments))
    out, workers, threads = (options.pop(name) for name in ("output_dir", "workers", "threads"))
    torch.set_num_threads(threads)
    pretrain(PretrainSettings(**options), out, workers)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
