"""The imports of plug-ins: each repository is its own package, and its files find their own neighbours first.

In a file of a plug-in, `from .x import y`, `from trainers.x import y`, `import clip` and `from datasets.x import y`
mean the plug-in's own files where it has them, and this project's where it does not; a line says so where a neighbour
is missing. `dassl` is always this project's. Files of other packages import as before: only the modules of a plug-in
get another `__import__`, through the `__builtins__` of their globals.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TRAINERS = "trainers"


class PluginPackage(MetaPathFinder):
    """The files of one repository as a package with its own name in `sys.modules`.

    Args:
        root: the checkout. If it has no folder `trainers`, its files take that folder's place.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_flat = not (root / TRAINERS).is_dir() or is_of_project(root / TRAINERS)
        digest = hashlib.sha256(str(root).encode(errors="surrogateescape")).hexdigest()
        self.name = f"plugin_{re.sub(r'[^A-Za-z0-9]+', '_', root.name)}_{digest[:8]}"
        self.sources: dict[str, str] = {}
        """SHA-256 of each file that was compiled, by its path below the root."""
        self.lines: list[str] = []
        """What was said so far."""
        self._is_announced = False
        self.builtins = vars(builtins) | {"__import__": self._import}

    def install(self) -> None:
        package = ModuleType(self.name)
        package.__path__ = [str(self.root)]
        sys.modules[self.name] = package
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        sys.meta_path.remove(self)
        for name in [name for name in sys.modules if self.owns(name)]:
            del sys.modules[name]

    def owns(self, module: str) -> bool:
        """Whether a module of that name is one of this package."""
        return module == self.name or module.startswith(f"{self.name}.")

    def say(self, line: str) -> None:
        """Print a line, once; before `announce`, it is kept until then."""
        if line in self.lines:
            return
        self.lines.append(line)
        if self._is_announced:
            print(line)

    def announce(self) -> None:
        """Print the lines so far. Later ones are printed at once."""
        self._is_announced = True
        for line in self.lines:
            print(line)

    def module_name(self, file: Path) -> str:
        """The full name of the module in a file below the root."""
        return ".".join([self.name, *file.relative_to(self.root).with_suffix("").parts]).removesuffix(".__init__")

    # The finder of modules below the package's name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.name}."):
            return None
        for folder in path or ():
            loader: Any = partial(PluginLoader, self)  # FileFinder calls it with the name and the path
            spec = FileFinder(folder, (loader, [".py"])).find_spec(fullname)
            if spec is not None:
                return spec
        return None

    # What `import` means in a file of the package

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        word = name.partition(".")[0]
        if level:
            full = resolve_name("." * level + name, (globals or {})["__package__"])
        elif self._has(word):
            full = self._full_name(name)
        else:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        importer = str((globals or {}).get("__file__", self.root))
        self._provide(full, importer)
        module = importlib.import_module(full)
        if not fromlist:  # `import a.b` binds a
            return sys.modules[self._full_name(word)]
        for item in fromlist:
            if item != "*" and hasattr(module, "__path__") and not hasattr(module, item):
                self._provide(f"{full}.{item}", importer)
        return module if level and not name else builtins.__import__(full, globals, locals, fromlist, 0)

    def _has(self, word: str) -> bool:
        """Whether the first word of an absolute import is one of the plug-in's own modules or packages."""
        if word == "dassl" or word in sys.stdlib_module_names:
            return False
        if word == TRAINERS:
            return True
        folder, file = self.root / word, self.root / f"{word}.py"
        if file.is_file():
            return not is_of_project(file)
        # a folder without Python files (logs, data) is meant only if no package has its name
        is_package = folder.is_dir() and not is_of_project(folder)
        return is_package and (any(folder.glob("*.py")) or find_spec(word) is None)

    def _full_name(self, name: str) -> str:
        words = name.split(".")
        return ".".join([self.name, *(words[1:] if self.is_flat and words[0] == TRAINERS else words)])

    def _provide(self, full: str, importer: str) -> None:
        """Take those parts of a dotted name from this project which the plug-in does not have."""
        parent = self.name
        for part in full.removeprefix(self.name).split(".")[1:]:
            child, above = f"{parent}.{part}", sys.modules[parent]
            if child not in sys.modules:
                own = self.owns(above.__name__)
                if own and self.find_spec(child, getattr(above, "__path__", None)) is not None:
                    importlib.import_module(child)
                elif not self._take_from_project(child, above, part, importer):
                    return  # the import itself raises the error
            parent = child

    def _take_from_project(self, child: str, above: ModuleType, part: str, importer: str) -> bool:
        path = child.removeprefix(f"{self.name}.")
        for name in [f"{TRAINERS}.{path}"] * self.is_flat + [path]:
            if _is_module_of_project(name):
                sys.modules[child] = importlib.import_module(name)
                setattr(above, part, sys.modules[child])
                if self.owns(above.__name__):
                    self.say(
                        f"Plug-in {self.root.name}: {importer} imports {name}, which is not beside it: "
                        "this project's is used"
                    )
                return True
        return False


class PluginLoader(SourceFileLoader):
    """Loads a file of a plug-in."""

    def __init__(self, package: PluginPackage, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._package = package

    def get_code(self, fullname: str) -> CodeType:
        """Compile a file, and note its digest. Compiled files on disk (`__pycache__`) are neither read nor written."""
        path = Path(self.get_filename(fullname))
        data = path.read_bytes()
        self._package.sources[str(path.relative_to(self._package.root))] = hashlib.sha256(data).hexdigest()
        return self.source_to_code(data, str(path))

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._package.builtins  # with the imports of the package
        super().exec_module(module)


def is_of_project(path: Path) -> bool:
    """Whether a file or folder is one of this project's own packages or programs."""
    return path.resolve().parent == PROJECT and (
        (path / "__init__.py").is_file() or path.name in ("train.py", "predict.py", "export.py", "parse_test_res.py")
    )


def _is_module_of_project(name: str) -> bool:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and PROJECT in Path(spec.origin or "").parents
