"""Plug-ins: trainers of other repositories, run as they are beside those of this project.

A plug-in is a file or a folder that the user names, and code is run only from there: a checkout with its folder
`trainers`, that folder, a folder of trainer files, or one file. It is loaded once in a process; its trainers are
registered, and its config keys are part of every configuration from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import leaves, plain
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.evaluation import EVALUATOR_REGISTRY
from dassl.modeling import BACKBONE_REGISTRY, HEAD_REGISTRY, NETWORK_REGISTRY
from dassl.utils.errors import BadValueError, MissingFileError, UnreadableFileError, UserError, one_line
from dassl.utils.registry import Registry
from runner.plugin_config import ConfigFunctions, has_config_functions, imported_trainers, parsed, registers
from runner.plugin_imports import PROJECT, TRAINERS, PluginPackage, is_of_project

REGISTRIES = (
    TRAINER_REGISTRY,
    DATASET_REGISTRY,
    EVALUATOR_REGISTRY,
    BACKBONE_REGISTRY,
    HEAD_REGISTRY,
    NETWORK_REGISTRY,
)
ROOMS = (TRAINERS, "datasets")
"""Folders of a checkout whose files are named as plug-ins; the checkout is the folder above."""
CONFIG_FILE = "train.py"


@dataclass
class Plugin:
    """A file or folder that was named.

    Args:
        path: as it was named, made absolute.
        package: the files of its checkout; plug-ins of one checkout share it.
        modules: full names of the modules that are loaded because the user named them.
        config: the functions that define its config keys, if it has them.
        replaced: this project's trainers whose names the plug-in has taken.
        digest: SHA-256 over the files that were run while it was loaded.
    """

    path: Path
    package: PluginPackage
    modules: list[str] = field(default_factory=list)
    config: ConfigFunctions | None = None
    replaced: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def trainers(self) -> list[str]:
        """Registered names of the trainers in its files."""
        return [name for name, found in TRAINER_REGISTRY.items() if self.package.owns(found.__module__)]

    @property
    def label(self) -> str:
        """Name and digest, for the configuration: the same where the checkout lies in another folder."""
        below = self.path.relative_to(self.package.root.parent).as_posix()
        return f"{below} {self.digest}"


_loaded: list[Plugin] = []
"""The plug-ins of this process, in the order of loading."""


def load_plugins(paths: Sequence[str]) -> None:
    """Load the plug-ins that this process does not have yet.

    Args:
        paths: files and folders, as given to `--plugin`.

    Raises:
        UserError: there is no such file, it has no trainer, or it fails; one line says where and why.
    """
    for text in paths:
        path = Path(os.path.abspath(text))
        if path not in [plugin.path for plugin in _loaded]:
            _load(path)


def labels() -> tuple[str, ...]:
    """The value of the config key PLUGINS."""
    return tuple(plugin.label for plugin in _loaded)


def description() -> list[dict[str, Any]]:
    """The plug-ins with the SHA-256 of every file of theirs that has been run, for result.json."""
    return [
        {"path": str(plugin.path), "sha256": plugin.digest, "files": dict(sorted(plugin.package.sources.items()))}
        for plugin in _loaded
    ]


def announce() -> None:
    """Print what was loaded, and what it replaced. Later lines are printed at once."""
    for plugin in _loaded:
        keys = f"config keys of {plugin.config.file}" if plugin.config else f"no {CONFIG_FILE} with config keys"
        print(f"Plug-in {plugin.path}: {', '.join(plugin.trainers) or 'no trainer'}; {keys}")
    for package in {id(plugin.package): plugin.package for plugin in _loaded}.values():
        package.announce()


def extend_cfg_by_plugins(cfg: CfgNode) -> None:
    """Add the plug-ins' config keys; a key of this project that a plug-in defines as well is the plug-in's."""
    replaced = [ours for plugin in _loaded for ours in plugin.replaced.values()]
    for ours in replaced:  # a plug-in without its own keys is run with those that it knows from here
        if hasattr(ours, "add_config"):
            ours.add_config(cfg)
    for plugin in _loaded:
        if plugin.config is not None:
            before = cfg.clone()
            with _errors_of(plugin.package, plugin.config.file):
                plugin.config.extend(cfg)
            _say_changed_types(plugin, before, cfg)
    cfg.PLUGINS = labels()


def reset_cfg_by_plugins(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Run the plug-ins' `reset_cfg`, which expects the flags of its own command line."""
    for plugin in _loaded:
        if plugin.config is not None:
            with _errors_of(plugin.package, plugin.config.file):
                plugin.config.reset(cfg, args)


def check_recorded(recorded: object, where: str) -> None:
    """Compare the plug-ins in a recorded configuration (its key PLUGINS) with those that are loaded.

    Edited files of a plug-in are a warning, as other configurations are for trainers of other repositories.

    Args:
        where: the recorded configuration, for messages.

    Raises:
        BadValueError: one of them is not loaded.
        UnreadableFileError: the value is not a list of texts.
    """
    if not isinstance(recorded, list | tuple) or not all(isinstance(label, str) for label in recorded):
        raise UnreadableFileError(f"{where} is damaged: its PLUGINS is {str(recorded)[:80]!r}, not a list of names")
    for label in recorded:
        name = label.rpartition(" ")[0]
        if name not in [here.rpartition(" ")[0] for here in labels()]:
            raise BadValueError(f"{where} is of a run with the plug-in {name or label}: add --plugin with its path")
        if label not in labels():
            print(f"Warning: files of the plug-in {name} have changed since the run of {where} (SHA-256)")


# --- loading ---------------------------------------------------------------------------------------------------------


def _load(path: Path) -> None:
    root = _root(path)
    shared = next((plugin.package for plugin in _loaded if plugin.package.root == root), None)
    plugin = Plugin(path, shared or PluginPackage(root))
    files, config_file = _files(path, root, plugin.package.is_flat)
    plugin.modules = [plugin.package.module_name(file) for file in files]
    before = {registry: dict(registry.items()) for registry in REGISTRIES}
    for registry in REGISTRIES:
        registry.on_conflict = _choose
    if shared is None:
        plugin.package.install()
    _loaded.append(plugin)
    try:
        for module, file in zip(plugin.modules, files, strict=True):
            with _errors_of(plugin.package, file):
                importlib.import_module(module)
        if config_file is not None:
            with _errors_of(plugin.package, config_file):
                plugin.config = ConfigFunctions(config_file, plugin.package)
        plugin.digest = _digest(plugin.package.sources)
    except BaseException:
        _loaded.remove(plugin)
        if shared is None:
            plugin.package.uninstall()
        for registry, content in before.items():
            registry.restore(content)
            registry.on_conflict = _choose if _loaded else None
        raise


def _root(path: Path) -> Path:
    """The checkout of a plug-in.

    Raises:
        MissingFileError: there is no such file or folder.
        BadValueError: it is neither a Python file nor a folder, or a part of this project.
    """
    if not path.exists():
        raise MissingFileError(f"no such plug-in: {path} (--plugin needs a Python file or a folder)")
    if path.is_file() and path.suffix != ".py":
        raise BadValueError(f"{path} is not a Python file: --plugin needs one, or a folder of them")
    folder = path if path.is_dir() else path.parent
    if folder == PROJECT or any(is_of_project(above) for above in (folder, *folder.parents)):
        raise BadValueError(
            f"{path} lies among this project's own files: put it into a folder of its own "
            "(trainers of this project need no --plugin)"
        )
    if path.is_dir() and (path / TRAINERS).is_dir():
        return path
    return next((above.parent for above in (folder, folder.parent) if above.name in ROOMS), folder)


def _files(path: Path, root: Path, is_flat: bool) -> tuple[list[Path], Path | None]:
    """The files to load, and the file that has the functions for the configuration.

    A folder's are those of its `trainers` that its train.py imports; without such imports, those that register
    something.

    Raises:
        BadValueError: there is nothing to load.
    """
    if path.is_file():
        tree = parsed(path)
        own = path if has_config_functions(tree) else None
        files = [path] if registers(tree) else []
        if not files and own is None:
            raise BadValueError(f"{path} registers no trainer and has no extend_cfg: name another file, or its folder")
        return files, own or (_config_file(root, path.parent) if files else None)
    folder = root / TRAINERS if path == root and not is_flat else path
    config_file = _config_file(root, folder)
    names: list[str] = []
    if (root / CONFIG_FILE).is_file() and folder in (root, root / TRAINERS):
        names = imported_trainers(parsed(root / CONFIG_FILE))
    places = [folder / name.replace(".", "/") for name in names]
    files = [file for at in places for file in (at.with_suffix(".py"), at / "__init__.py") if file.is_file()]
    files = files or [file for file in sorted(folder.glob("*.py")) if registers(parsed(file))]
    if not files and config_file is None:
        raise BadValueError(f"{folder} has no Python file that registers a trainer: name the folder or the file")
    return list(dict.fromkeys(files)), config_file


def _config_file(root: Path, folder: Path) -> Path | None:
    """The train.py beside the files, or else in the checkout, if it has functions for the configuration."""
    for file in (folder / CONFIG_FILE, root / CONFIG_FILE):
        if file.is_file() and has_config_functions(parsed(file)):
            return file
    return None


def _digest(sources: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(sources.items()))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _choose(registry: Registry, name: str, ours: Any, new: Any) -> Any:
    """A registered name that both have is the plug-in's, except data sets that its files only import.

    Returns:
        The object that the name stands for; None where it is not for plug-ins to decide.
    """
    plugin = next((plugin for plugin in reversed(_loaded) if plugin.package.owns(new.__module__)), None)
    if plugin is None:
        return None
    what = f"Plug-in {plugin.path}: the {registry.kind} {name}"
    if any(other.package.owns(ours.__module__) for other in _loaded):
        raise BadValueError(
            f"the {registry.kind} {name} is in two files of plug-ins, {_file_of(ours)} and {_file_of(new)}: "
            "name only the one you want with --plugin"
        )
    if registry is DATASET_REGISTRY and new.__module__ not in plugin.modules:
        plugin.package.say(f"{what} is this project's, not that of {_file_of(new)}")
        return ours
    if registry is TRAINER_REGISTRY:
        plugin.replaced[name] = ours
    plugin.package.say(f"{what} is that of {_file_of(new)}, not this project's")
    return new


def _file_of(registered: Any) -> str:
    """The file of a registered class or function."""
    return str(getattr(sys.modules.get(registered.__module__), "__file__", registered.__module__))


def _say_changed_types(plugin: Plugin, before: CfgNode, after: CfgNode) -> None:
    """Say which keys of this project have another type in the plug-in."""
    now = dict(leaves(plain(after)))
    for key, value in leaves(plain(before)):
        if key in now and type(now[key]) is not type(value):
            plugin.package.say(
                f"Plug-in {plugin.path}: config key {key} is a {type(now[key]).__name__} ({now[key]!r}) there, "
                f"not a {type(value).__name__}"
            )


@contextmanager
def _errors_of(package: PluginPackage, file: Path) -> Iterator[None]:
    """Errors in a file of a plug-in as one line that names the file, the line and the statement."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"plug-in {file}: {_where(error, package)}{_what(error, package)}") from error


def _where(error: BaseException, package: PluginPackage) -> str:
    """The innermost statement of the plug-in's files; empty where it is unknown."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: " if error.filename else ""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if package.root in Path(frame.filename).parents]
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}: " if own else ""


def _what(error: BaseException, package: PluginPackage) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (exit status {error.code}) where only its classes are wanted"
    text = one_line(error).replace(f"{package.name}.", "")
    if isinstance(error, ModuleNotFoundError):
        return f"{text}: install that package, or name only those files of the plug-in that are needed"
    return f"{type(error).__name__}: {text}"
