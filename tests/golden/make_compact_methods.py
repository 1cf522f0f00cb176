"""Make the compact copies in the folder `methods` beside this script: two files for each trainer.

python tests/golden/make_compact_methods.py ../shared/golden_methods

As make_compact.py, except that single numbers are kept for every step, the gradients for `GRADIENT_STEPS`, among which
are steps with and without ProGrad's projection, and of the float64 records losses, logits and the last tensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from make_compact import HERE, INTERMEDIATE_STEPS, SETTINGS, STRIDE, compact, without_copies
from safetensors.torch import load_file, save_file

from golden_methods import OURS, our_options  # isort: skip  (make_compact has put its folder on the path)

GRADIENT_STEPS = (0, 2, 5)
GRADIENTS = ("grad_base", "g_ce", "g_kl")
ARRAYS = ("logits", "text_features", "image_features", "zs_image_features")


def main(golden: Path) -> None:
    starts = json.loads((golden / "start_draws.json").read_text())
    layouts = {entry["trainer"]: entry for entry in json.loads((golden / "checkpoint_layout_methods.json").read_text())}
    for trainer in OURS:
        layout = {key: layouts[trainer][key] for key in ("registered_name", "file", "learned", "other_small_entries")}
        tensors, index = {}, {"stride": STRIDE, "fixtures": {}, "starts": {}, "layout": layout}
        for path in sorted((golden / "fixtures").glob("*.json")):
            settings = json.loads(path.read_text())
            if settings["trainer"] == trainer:
                kept, index["fixtures"][path.stem] = compacted(path, settings)
                tensors |= {f"{path.stem}/{key}": value for key, value in kept.items()}
        for name, start in starts.items():
            if start["trainer"] == trainer:
                index["starts"][name] = {
                    "trainer": trainer,
                    "options": our_options(trainer, start["options"]),
                    **{key: start[key] for key in ("seed", "next_four_of_torch.rand")},
                }
        unique, index["aliases"] = without_copies(tensors)
        target = HERE / "methods" / f"{trainer.lower()}.safetensors"
        target.parent.mkdir(exist_ok=True)
        save_file(unique, target)
        target.with_suffix(".json").write_text(json.dumps(index, separators=(",", ":")))
        print(f"{target.name}: {target.stat().st_size:,} bytes, {len(index['fixtures'])} fixtures")


def compacted(path: Path, settings: dict) -> tuple[dict, dict]:
    """Kept tensors of a fixture, those of its float64 record as `float64/<key>`; and its settings."""
    kept, steps = compact(load_file(path.with_suffix(".safetensors")), is_kept)
    wide, wide_steps = compact(load_file(path.with_suffix(".f64.safetensors")), is_kept_in_float64)
    kept |= {f"float64/{key}": value for key, value in wide.items() if key.startswith(("steps/", "eval_"))}
    settings = {key: settings[key] for key in SETTINGS if settings.get(key) is not None}
    settings["options"] = our_options(settings["trainer"], settings["options"])
    return kept, settings | {"steps": steps, "float64_steps": wide_steps}


def is_kept(kind: str, step: int) -> bool:
    if kind in GRADIENTS:
        return step in GRADIENT_STEPS
    return step in INTERMEDIATE_STEPS if kind in ARRAYS else True


def is_kept_in_float64(kind: str, step: int) -> bool:
    return kind == "loss" or (kind == "param" and step == 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
