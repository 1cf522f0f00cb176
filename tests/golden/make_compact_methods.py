"""Make the compact copies in the folder `methods` beside this script: two files for each trainer.

python tests/golden/make_compact_methods.py ../shared/golden ../shared/golden_methods

As make_compact.py, except that

* single numbers are kept for every step, the gradients for `GRADIENT_STEPS`, among which are steps with and without
  ProGrad's projection, and of the float64 records losses, logits and the last tensors;
* of a run that learns more than `MANY` values, tensors with more than `LARGE_OF_MANY` count as large, and of the start
  values (`start/<tensor>`) every `STRIDE`-th is kept: a replay compares its own start with them and continues from it;
* the text blocks that TCP's tower has beyond the tiny CLIP's are drawn again from their seed (checked here to be equal
  bit for bit); `token_rows.safetensors` has the rows of the token table that only these methods' texts use.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from make_compact import HERE, INTERMEDIATE_STEPS, LARGE, SETTINGS, STRIDE, compact, sampled, without_copies
from safetensors.torch import load_file, save_file

# make_compact has put their folders on the path
from golden_data import METHODS, further_text_blocks  # isort: skip
from golden_methods import OURS, our_options, our_settings  # isort: skip
from clip.clip import tokenize  # isort: skip
from dassl.utils.yaml_files import read_yaml  # isort: skip
from trainers.core.templates import DEFAULT_TEMPLATE, METHOD_TEMPLATES  # isort: skip

GRADIENT_STEPS = (0, 2, 5)
GRADIENTS = ("grad_base", "g_ce", "g_kl")
ARRAYS = ("logits", "text_features", "image_features", "zs_image_features")
MANY, LARGE_OF_MANY = 4096, 256
DESCRIPTIONS = "coprompt_descriptions.json"


def main(golden: Path, methods: Path) -> None:
    starts = json.loads((methods / "start_draws.json").read_text())
    layouts = {
        entry["trainer"]: entry for entry in json.loads((methods / "checkpoint_layout_methods.json").read_text())
    }
    METHODS.mkdir(exist_ok=True)
    for trainer in OURS:
        layout = {key: layouts[trainer][key] for key in ("registered_name", "file", "learned", "other_small_entries")}
        tensors, index = {}, {"stride": STRIDE, "fixtures": {}, "starts": {}, "layout": layout}
        for path in sorted((methods / "fixtures").glob("*.json")):
            settings = json.loads(path.read_text())
            if settings["trainer"] == trainer:
                kept, index["fixtures"][path.stem] = compacted(path, settings)
                tensors |= {f"{path.stem}/{key}": value for key, value in kept.items()}
        for name, start in starts.items():
            if start["trainer"] == trainer:
                fixture = index["fixtures"][name]
                index["starts"][name] = {
                    "trainer": trainer,
                    "backbone_file": fixture["backbone_file"],
                    "options": our_options(trainer, start["options"]),
                    **{key: start[key] for key in ("seed", "next_four_of_torch.rand")},
                }
        unique, index["aliases"] = without_copies(tensors)
        target = METHODS / f"{trainer.lower()}.safetensors"
        save_file(unique, target)
        target.with_suffix(".json").write_text(json.dumps(index, separators=(",", ":")))
        print(f"{target.name}: {target.stat().st_size:,} bytes, {len(index['fixtures'])} fixtures")
    check_text_blocks(methods)
    (HERE / DESCRIPTIONS).write_text((methods / DESCRIPTIONS).read_text().rstrip() + "\n")
    save_token_rows(golden, next(iter(index["fixtures"].values()))["classnames"])


def compacted(path: Path, settings: dict) -> tuple[dict, dict]:
    """Kept tensors of a fixture, those of its float64 record as `float64/<key>`; and its settings."""
    records, wide = (load_file(path.with_suffix(suffix)) for suffix in (".safetensors", ".f64.safetensors"))
    start = {key: value for key, value in records.items() if key.startswith("init/")}
    large = LARGE
    if sum(value.numel() for value in start.values()) > MANY:
        large = LARGE_OF_MANY
        sparse = {key.replace("init/", "start/"): sampled(value, large) for key, value in start.items()}
        records = {key: value for key, value in records.items() if key not in start} | sparse
    kept, steps = compact(records, is_kept, large)
    kept_wide, wide_steps = compact(wide, is_kept_in_float64, large)
    kept |= {f"float64/{key}": value for key, value in kept_wide.items() if key.startswith(("steps/", "eval_"))}
    ours = our_settings(settings)
    settings = {key: ours[key] for key in SETTINGS if ours.get(key) is not None}
    return kept, settings | {"steps": steps, "float64_steps": wide_steps}


def is_kept(kind: str, step: int) -> bool:
    if kind in GRADIENTS:
        return step in GRADIENT_STEPS
    return step in INTERMEDIATE_STEPS if kind in ARRAYS else True


def is_kept_in_float64(kind: str, step: int) -> bool:
    return kind == "loss" or (kind == "param" and step == 5)


def check_text_blocks(methods: Path) -> None:
    """Stop unless drawing them again gives the recorded blocks."""
    recorded, drawn = load_file(methods / "tiny_clip_text10_blocks.safetensors"), further_text_blocks()
    assert recorded.keys() == drawn.keys() and all(torch.equal(drawn[name], recorded[name]) for name in recorded)


def save_token_rows(golden: Path, classnames: list[str]) -> None:
    """Rows of the token table that the texts of these methods use and the compact towers do not have."""
    names = [name.replace("_", " ") for name in classnames]
    lists = [read_yaml(path) for path in sorted(METHOD_TEMPLATES.glob("*.yaml"))]
    templates = [DEFAULT_TEMPLATE, "a picture showing {}.", *(text for some in lists for text in some.values())]
    descriptions = json.loads((HERE / DESCRIPTIONS).read_text())
    texts = [template.format(name) for template in templates for name in names]
    texts += [sentence for sentences in descriptions.values() for sentence in sentences]
    there = load_file(HERE / "tiny_clip_vit.safetensors")["token_embedding.rows"]
    rows = tokenize(texts).unique()
    rows = rows[~torch.isin(rows, there.to(rows.dtype))]
    table = load_file(golden / "tiny_clip_vit.safetensors")["token_embedding.weight"]
    content = {"token_embedding.rows": rows.int(), "token_embedding.weight": table[rows].contiguous()}
    save_file(content, METHODS / "token_rows.safetensors")
    print(f"token_rows.safetensors: {len(rows)} rows")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
