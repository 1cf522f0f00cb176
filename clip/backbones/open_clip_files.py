"""Single files of open_clip_torch, imported without the package around them.

`import open_clip` brings timm, torchvision and every model definition with it, three seconds of start-up for a
vocabulary and a list of sentences. The two files used here import nothing else of the package.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def open_clip_module(name: str) -> ModuleType:
    """The module `open_clip.<name>`, from a full import if there was one, else from its file alone."""
    if f"open_clip.{name}" in sys.modules:
        return sys.modules[f"open_clip.{name}"]
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("open_clip is missing: pip install open_clip_torch")
    spec = importlib.util.spec_from_file_location(f"_open_clip_{name}", Path(package.origin).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None, "a file that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
