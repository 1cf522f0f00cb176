"""The config keys of a plug-in: `extend_cfg` and `reset_cfg` of its `train.py`, without running the rest of that file.

Only these functions are run, and what they use: the functions, constants and imports of the file that they name.
The defaults of the file's own flags are read as data.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import Any

from yacs.config import CfgNode

from dassl.utils.errors import UnreadableFileError
from dassl.utils.files import read_bytes
from runner.arguments import parse_args
from runner.plugin_imports import TRAINERS, PluginLoader, PluginPackage

EXTEND, RESET = "extend_cfg", "reset_cfg"
_COMPUTED = object()
"""In place of a value that is unknown without running the file."""


class ConfigFunctions:
    """`extend_cfg` and `reset_cfg` of a file.

    Args:
        file: the file, usually `train.py`.
        package: the plug-in that the file belongs to; the functions import as its files do.
    """

    def __init__(self, file: Path, package: PluginPackage) -> None:
        self.file = file
        loader = _FunctionsLoader(package, f"{package.name}.functions_of_{file.stem}", str(file))
        spec = spec_from_loader(loader.name, loader, origin=str(file))
        assert spec is not None
        module = module_from_spec(spec)
        module.__file__ = str(file)
        loader.exec_module(module)
        self._functions: dict[str, Callable[..., Any]] = {
            name: vars(module)[name] for name in (EXTEND, RESET) if name in vars(module)
        }
        self._flags = flag_defaults(parsed(file))
        flags = vars(parse_args([]))
        self._unset = {name: type(value)() if isinstance(value, str | list) else None for name, value in flags.items()}

    def extend(self, cfg: CfgNode) -> None:
        """Add the keys of `extend_cfg`, and those that `reset_cfg` adds; existing keys that they do not define stay."""
        before = cfg.clone()
        self._call(EXTEND, cfg, argparse.Namespace())
        _put_back(cfg, before)
        after_reset = cfg.clone()
        self._call(RESET, after_reset, argparse.Namespace())
        _put_back(cfg, after_reset)

    def reset(self, cfg: CfgNode, args: argparse.Namespace) -> None:
        """Let `reset_cfg` set what it sets, as the other repository does after merging the YAML files.

        A key does not become None because its flag was not given.
        """
        before = cfg.clone()
        self._call(RESET, cfg, args)
        _put_back(cfg, before, none_too=True)

    def _call(self, name: str, cfg: CfgNode, args: argparse.Namespace) -> None:
        function = self._functions.get(name)
        if function is None:
            return
        takes_arguments = len(inspect.signature(function).parameters) > 1
        function(cfg, *([self._arguments(args)] if takes_arguments else []))

    def _arguments(self, args: argparse.Namespace) -> argparse.Namespace:
        """What the other parser would give: this command's flags, and the defaults of flags that are only there."""
        own = {name: value for name, value in vars(args).items() if value is not None and value != ""}
        return argparse.Namespace(**self._unset | self._flags | own)


def _put_back(cfg: CfgNode, other: CfgNode, none_too: bool = False) -> None:
    """Add the keys of `other` that `cfg` does not have; with `none_too`, also those that are None there."""
    for key, value in other.items():
        if key not in cfg or (none_too and cfg[key] is None):
            cfg[key] = value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            _put_back(cfg[key], value, none_too)


class _FunctionsLoader(PluginLoader):
    """Compiles the two functions and what they use, and nothing else of the file."""

    def source_to_code(self, data: Any, path: Any, **options: Any) -> CodeType:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().source_to_code(pruned(ast.parse(data, path), {EXTEND, RESET}), path, **options)


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        UnreadableFileError: it cannot be read, or is not Python.
    """
    try:
        return ast.parse(read_bytes(file), str(file))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UnreadableFileError(f"{file}{line} is not Python: {getattr(error, 'msg', error)}") from error


def pruned(tree: ast.Module, wanted: set[str]) -> ast.Module:
    """The statements of a file that bind the wanted names, and those that these use, in their order."""
    statements = [part for statement in tree.body for part in _parts(statement)]
    needed, kept = set(wanted), set[int]()
    while True:
        found = {i for i, part in enumerate(statements) if i not in kept and bound_names(part) & needed}
        if not found:
            break
        kept |= found
        for i in found:
            needed |= {node.id for node in ast.walk(statements[i]) if isinstance(node, ast.Name)}
    kept |= {i for i, part in enumerate(statements) if isinstance(part, ast.ImportFrom) and part.module == "__future__"}
    return ast.Module([statements[i] for i in sorted(kept)], type_ignores=[])


def _parts(statement: ast.stmt) -> Iterator[ast.stmt]:
    """A statement that imports several names as one for each name."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            one = ast.Import([alias])
            if isinstance(statement, ast.ImportFrom):
                one = ast.ImportFrom(statement.module, [alias], statement.level)
            yield ast.copy_location(one, statement)
    else:
        yield statement


def bound_names(statement: ast.stmt) -> set[str]:
    """The names of its module that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):  # what a program runs
        return set()
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def has_config_functions(tree: ast.Module) -> bool:
    """Whether a file has one of the two functions, defined or imported."""
    return any(bound_names(statement) & {EXTEND, RESET} for statement in tree.body)


def flag_defaults(tree: ast.Module) -> dict[str, Any]:
    """The defaults of the flags in a file's calls of `add_argument`, where they are written as literals."""
    defaults = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            stated = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
            names = [value for value in map(_literal, call.args) if isinstance(value, str)]
            long_names = [name for name in names if name.startswith("--")] or names
            if not long_names or stated.get("default") is _COMPUTED:
                continue
            given, action = stated.get("dest"), stated.get("action")
            name = given if isinstance(given, str) else long_names[0].lstrip("-").replace("-", "_")
            without = action == "store_false" if action in ("store_true", "store_false") else None
            defaults[name] = stated.get("default", without)
    return defaults


def _literal(node: ast.expr) -> Any:
    """The value of a literal; `_COMPUTED` for anything else."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _COMPUTED


def imported_trainers(tree: ast.Module) -> list[str]:
    """The modules of `trainers` that a file imports, as dotted names below it; some may be names in a module."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    below = f"{TRAINERS}."
    return list(dict.fromkeys(name.removeprefix(below) for name in names if name.startswith(below)))


def registers(tree: ast.Module) -> bool:
    """Whether a file registers a class or function by a decorator: `@TRAINER_REGISTRY.register()`."""
    return any(
        ".register" in ast.unparse(decorator)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for decorator in node.decorator_list
    )
