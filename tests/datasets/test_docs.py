"""The example of docs/datasets.md runs as it stands, but for the model: the embedded one, which needs no download."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


def example() -> str:
    """The shell lines under "Own data"."""
    text = (REPOSITORY / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"## Own data.*?```bash\n(.*?)```", text, re.DOTALL)
    return block


def test_the_own_data_example_has_five_lines():
    assert len(example().splitlines()) == 5


def test_the_own_data_example_runs(tmp_path):
    images = tmp_path / "my_images"
    rng = np.random.default_rng(1)
    for cls in ("red_ring", "blue_star"):
        (images / cls).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(images / cls / f"{number}.jpg")
    script = example().replace("my_images/", f"{images}/").replace("output/mine", str(tmp_path / "output"))
    script = script.replace("vit_b16", "vit_shapes").rstrip() + " OPTIM.MAX_EPOCH 1\n"

    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=REPOSITORY, env=env, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       my_images            2 classes, train 8, val 4, test 4; 16 images decoded" in done.stdout
    assert re.search(r"^\* accuracy: \d", done.stdout, re.MULTILINE), done.stdout
    assert (images / "split_folder.json").is_file()
    assert (images / "split_fewshot" / "shot_16-seed_1.json").is_file()
