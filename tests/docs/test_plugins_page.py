"""docs/plugins.md: its commands, and that the wheel for other repositories is `dassl` alone."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(block.replace("\\\n", " ")) for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
]


def test_the_page_has_two_commands():
    assert [words[:3] for words in COMMANDS] == [["python", "train.py", "--root"], ["python", "-m", "pip"]]


def test_the_flags_of_the_page_are_train_pys():
    args = train.parse_args(COMMANDS[0][2:])
    assert args.plugin == ["../CoOp"] and args.trainer == "CoOp" and args.opts == ["DATASET.NUM_SHOTS", "16"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that the page's command builds, with the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "dassl", folder / "dassl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "clip", folder / "clip", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("pyproject.toml", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, *COMMANDS[1][1:], "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "dist").glob("dassl-*.whl")
    return path


def test_the_wheel_is_dassl_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dassl"}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "dassl").rglob("*.py")}
    assert files == {name for name in names if name.endswith(".py")}


def test_a_checkout_runs_on_the_wheel(wheel, tmp_path):
    """A repository of its own, without any file of this project."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            archive.extract(name, tmp_path / "installed")
    (tmp_path / "checkout" / "clip").mkdir(parents=True)
    (tmp_path / "checkout" / "clip" / "__init__.py").write_text("whose = 'theirs'\n")
    (tmp_path / "checkout" / "run.py").write_text(
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport clip, dassl\nfrom dassl.config import get_cfg_default\n"
        "from dassl.data.data_manager import build_transform\nfrom dassl.engine import TRAINER_REGISTRY, TrainerX\n"
        "from dassl.modeling.ops import MixStyle\nfrom dassl.utils import Logger, set_random_seed\n"
        "print(clip.whose, dassl.__file__, TRAINER_REGISTRY.registered_names(), get_cfg_default().OPTIM.NAME)\n"
    )
    command = [sys.executable, "run.py", str(tmp_path / "installed")]
    ended = subprocess.run(command, cwd=tmp_path / "checkout", capture_output=True, text=True, check=True)
    assert ended.stdout == f"theirs {tmp_path}/installed/dassl/__init__.py [] adam\n"
