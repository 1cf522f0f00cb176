"""Make the compact copy of the golden data that lies beside this script.

python tests/golden/make_compact.py ../shared/golden

The golden data are tensors recorded from the published trainers on a tiny CLIP. The compact copy keeps every fixture
and what is needed to replay it, and saves space so:

* the towers' token table holds the rows that occur in some prompt (the backbone loader expands it);
* images are kept as the bytes they were normalised from (checked here to give the very same float32 values);
* of a tensor with more than LARGE values, each record keeps every STRIDE-th value (initial values are kept whole);
* gradients are kept for GRADIENT_STEPS, the intermediate tensors of ProMetaR's step for INTERMEDIATE_STEPS;
* records of the same tensor at several steps are stacked, and equal initial tensors are stored once;
* float64 records stay out.

make_compact_methods.py does the same for the methods recorded later.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "helpers")]

from golden_data import PIXEL_MEAN, PIXEL_STD, normalised_pixels  # noqa: E402

from clip.clip import tokenize  # noqa: E402
from trainers.core.templates import CUSTOM_TEMPLATES, selected_templates, teacher_templates  # noqa: E402

LARGE, STRIDE = 2048, 61
GRADIENT_STEPS, INTERMEDIATE_STEPS = (0, 3), (1,)
EVERY_STEP = ("loss", "param", "vnet", "draw")
GRADIENTS = ("grad_base", "grad_meta", "vnet_grad")
SETTINGS = (
    "trainer",
    "backbone_file",
    "dataset_name",
    "options",
    "optim",
    "optim_vnet",
    "seed_init",
    "vpt_init_scaled_by",
    "seed_run",
    "lr_used_per_step",
    "num_batches_per_epoch",
    "gpa_weights",
    "single_class_steps",
    "classnames",
)


def main(golden: Path) -> None:
    fixtures = {path.stem: json.loads(path.read_text()) for path in sorted((golden / "fixtures").glob("*.json"))}
    save_towers(golden, next(iter(fixtures.values()))["classnames"])
    save_images(golden)
    save_plain_features(golden)
    save_tokenizer_cases(golden)
    layout = json.loads((golden / "checkpoint_layout.json").read_text())
    (HERE / "checkpoint_layout.json").write_text(json.dumps(layout, separators=(",", ":")))
    save_start_draws(golden)

    index, files = {}, {}
    for name, settings in fixtures.items():
        index[name] = {key: settings[key] for key in SETTINGS if settings.get(key) is not None}
        index[name]["file"] = f"{settings['trainer'].rstrip('2').lower()}.safetensors"
        records, index[name]["steps"] = compact(load_file(golden / "fixtures" / f"{name}.safetensors"))
        files.setdefault(index[name]["file"], {}).update({f"{name}/{key}": value for key, value in records.items()})
    aliases = {}
    for file, tensors in files.items():
        unique, aliases[file] = without_copies(tensors)
        save_file(unique, HERE / file)
    content = {"large": LARGE, "stride": STRIDE, "fixtures": index, "aliases": aliases}
    (HERE / "fixtures.json").write_text(json.dumps(content, separators=(",", ":")))
    print(f"{sum(path.stat().st_size for path in HERE.iterdir() if path.is_file()):,} bytes, {len(index)} fixtures")


def save_start_draws(golden: Path) -> None:
    """Of the draws before the first batch: each trainer's options and seed, and what the generator gives next."""
    starts = json.loads((golden / "start_draws.json").read_text())
    kept = ("options", "seed", "next_four_of_torch.rand")
    content = {name: {key: start[key] for key in kept} for name, start in starts.items()}
    (HERE / "start_draws.json").write_text(json.dumps(content, separators=(",", ":")))


def save_towers(golden: Path, classnames: list[str]) -> None:
    """Both towers as stored (float16), the token table restricted to the rows of every text that a test encodes."""
    state = load_file(golden / "tiny_clip_vit.safetensors")
    names = [name.replace("_", " ") for name in classnames]
    templates = [*teacher_templates(), *selected_templates(), *CUSTOM_TEMPLATES.values(), "a photo of a {}.", "X X {}."]
    plain = json.loads((golden / "clip_features.json").read_text())["text_inputs"]
    texts = [template.format(name) for template in templates for name in names] + plain
    rows = tokenize(texts).unique()
    state["token_embedding.weight"] = state["token_embedding.weight"][rows].contiguous()
    state["token_embedding.rows"] = rows.int()
    save_file(state, HERE / "tiny_clip_vit.safetensors")
    save_file(load_file(golden / "tiny_clip_rn_visual.safetensors"), HERE / "tiny_clip_rn_visual.safetensors")


def save_images(golden: Path) -> None:
    """Images as bytes [..., 3, 64, 64]; labels as they are."""
    batches = load_file(golden / "batches.safetensors")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    result = {}
    for name, tensor in batches.items():
        if tensor.is_floating_point():
            pixels = ((tensor.double() * std.double() + mean.double()) * 255).round().to(torch.uint8)
            assert torch.equal(normalised_pixels(pixels), tensor), f"{name} was not made from bytes"
            tensor = pixels
        result[name] = tensor
    save_file(result, HERE / "images.safetensors")


def save_plain_features(golden: Path) -> None:
    """Features of the plain CLIP, float32."""
    features = load_file(golden / "clip_features.safetensors")
    kept = {name: value for name, value in features.items() if value.dtype == torch.float32}
    save_file(kept | {"text_tokens": features["text_tokens"].int()}, HERE / "clip_features.safetensors")


def save_tokenizer_cases(golden: Path) -> None:
    cases = json.loads((golden / "tokenizer.json").read_text())["cases"]
    (HERE / "tokenizer.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")))


def is_kept(kind: str, step: int) -> bool:
    if kind in EVERY_STEP:
        return True
    return step in (GRADIENT_STEPS if kind in GRADIENTS else INTERMEDIATE_STEPS)


def compact(
    records: dict[str, Tensor], is_kept: Callable[[str, int], bool] = is_kept, large: int = LARGE
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The kept records, those of several steps stacked as `steps/<quantity>`, and which steps those are."""
    kept: dict[str, Tensor] = {}
    by_quantity: dict[str, dict[int, Tensor]] = {}
    for key, value in records.items():
        step, _, quantity = key.partition("/")
        if not step.startswith("step"):
            if key != "tokenized_prompts":
                kept[key] = value
            continue
        number, kind = int(step[4:]), quantity.split("/")[0]
        if quantity.endswith("zs_logits") or not is_kept(kind, number):
            continue
        if kind == "draw":  # of different sizes at different steps
            kept[key] = value
        else:
            by_quantity.setdefault(quantity, {})[number] = sampled(value, large)
    for quantity, steps in by_quantity.items():
        kept[f"steps/{quantity}"] = torch.stack([steps[number] for number in sorted(steps)])
    steps_of_kind = {quantity.split("/")[0]: sorted(steps) for quantity, steps in by_quantity.items()}
    assert all(sorted(steps) == steps_of_kind[quantity.split("/")[0]] for quantity, steps in by_quantity.items())
    return kept, steps_of_kind


def sampled(value: Tensor, large: int = LARGE) -> Tensor:
    return value.flatten()[::STRIDE] if value.numel() > large else value


def without_copies(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors without equal ones, and under which name each left-out one is found."""
    first: dict[tuple, str] = {}
    unique, aliases = {}, {}
    for name, tensor in tensors.items():
        content = (tuple(tensor.shape), tensor.dtype, tensor.numpy().tobytes())
        if content in first:
            aliases[name] = first[content]
        else:
            first[content] = name
            unique[name] = tensor.contiguous()
    return unique, aliases


if __name__ == "__main__":
    main(Path(sys.argv[1]))
