"""The config keys of a plug-in: `extend_cfg` and `reset_cfg` of its `train.py`, without running the rest of that file.

Only these functions are run, and what they use: the functions, constants and imports of the file that they name.
The defaults of the file's own flags are read as data.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import Any

from yacs.config import CfgNode

from dassl.utils.errors import UnreadableFileError
from runner.arguments import parse_args
from runner.plugin_imports import TRAINERS, PluginLoader, PluginPackage

EXTEND, RESET = "extend_cfg", "reset_cfg"


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
        return ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise UnreadableFileError(f"cannot read {file}: {error.strerror or error}") from error
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
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return set() if _is_main_guard(statement) else names


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def has_config_functions(tree: ast.Module) -> bool:
    """Whether a file has one of the two functions, defined or imported."""
    return any(bound_names(statement) & {EXTEND, RESET} for statement in tree.body)


def flag_defaults(tree: ast.Module) -> dict[str, Any]:
    """The defaults of the flags in a file's calls of `add_argument`, where they are written as literals."""
    defaults = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            stated = {keyword.arg: keyword.value for keyword in call.keywords}
            names = [value for value in map(_literal, call.args) if isinstance(value, str)]
            long_names = [name for name in names if name.startswith("--")] or names
            if not long_names:
                continue
            name = _literal(stated.get("dest")) or long_names[0].lstrip("-").replace("-", "_")
            if "default" in stated and _literal(stated["default"]) is None and not _is_none(stated["default"]):
                continue  # computed: unknown without running the file
            action = _literal(stated.get("action"))
            defaults[name] = _literal(stated.get("default"))
            if "default" not in stated and action in ("store_true", "store_false"):
                defaults[name] = action == "store_false"
    return defaults


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything else."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def imported_trainers(tree: ast.Module) -> list[str]:
    """The modules of `trainers` that a file imports, as dotted names below it; some may be names in a module."""
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            _add(found, (alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            _add(found, (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return list(found)


def _add(found: dict[str, None], names: Iterable[str]) -> None:
    prefix = f"{TRAINERS}."
    found.update((name.removeprefix(prefix), None) for name in names if name.startswith(prefix))


def registers(tree: ast.Module) -> bool:
    """Whether a file registers a class or function by a decorator: `@TRAINER_REGISTRY.register()`."""
    return any(
        ".register" in ast.unparse(decorator)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for decorator in node.decorator_list
    )
