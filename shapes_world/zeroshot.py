"""Zero-shot accuracy of a CLIP on the downstream data sets, measured on the same pictures that are written to disk.

python -m shapes_world.zeroshot [--backbone ViT-Shapes]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

import clip
from clip.model import CLIP
from dassl.command_line import ArgumentParser, errors_in_one_line
from shapes_world.suites import SUITES, Suite

TEMPLATE = "a photo of a {}."
BATCH_SIZE = 256
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, height, width, 3) -> CLIP's normalised float32 (batch, 3, height, width)."""
    mean, std = (torch.tensor(v, device=pictures.device) for v in (PIXEL_MEAN, PIXEL_STD))
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def evaluate(
    model: CLIP, tokenize: Callable[[Sequence[str]], torch.Tensor], per_class: int | None = None
) -> dict[str, float]:
    """Accuracy in percent on the test pictures: of each suite, and of the base and new halves of Shapes alone.

    Args:
        tokenize: from texts to the input of encode_text.
        per_class: number of test pictures per class; all of them if None.

    Returns:
        Accuracies with the keys "Shapes base", "Shapes new" and the suites' names.
    """
    accuracies: dict[str, float] = {}
    for name, suite in SUITES.items():
        logits, labels = _logits(model, tokenize, suite, per_class)
        if name == "Shapes":
            half = math.ceil(len(suite.subjects) / 2)
            base = labels < half
            accuracies["Shapes base"] = _accuracy(logits[base, :half], labels[base])
            accuracies["Shapes new"] = _accuracy(logits[~base, half:], labels[~base] - half)
        accuracies[name] = _accuracy(logits, labels)
    return accuracies


@torch.no_grad()
def _logits(
    model: CLIP, tokenize: Callable[[Sequence[str]], torch.Tensor], suite: Suite, per_class: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    count = suite.count("test") if per_class is None else min(per_class, suite.count("test"))
    text = F.normalize(
        model.encode_text(tokenize([TEMPLATE.format(name) for name in suite.class_names])).float(), dim=1
    )
    labels = torch.arange(len(suite.subjects)).repeat_interleave(count)
    pictures = (suite.draw("test", label, number) for label in range(len(suite.subjects)) for number in range(count))
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # (images, height, width, 3)
    image = torch.cat([model.encode_image(normalise(batch)) for batch in stacked.split(BATCH_SIZE)])
    return F.normalize(image.float(), dim=1) @ text.T, labels  # logits (images, classes)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m shapes_world.zeroshot",
        description="Zero-shot accuracy on the generated data sets.",
        examples=("--backbone ViT-Shapes",),
    )
    parser.add_argument("--backbone", default="ViT-Shapes", help="name or checkpoint file of a CLIP")
    options = parser.parse_args(arguments)
    model, _ = clip.load(options.backbone, device="cpu")
    for name, accuracy in evaluate(model, clip.tokenize).items():
        print(f"zero-shot {name}: {accuracy:.1f}%")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
