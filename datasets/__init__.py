"""Data sets in CoOp's folder layout; importing this package registers all of them.

Each module is one reader and is found automatically; `layout` has their common code. `python -m datasets.check`
verifies data on disk, `python -m datasets.prepare` downloads it.
"""

import importlib
import pkgutil

from dassl.command_line import end_imports_of_package_in_one_line, only_help_is_asked_for

end_imports_of_package_in_one_line()

from datasets.layout.config import add_config

__all__ = ["add_config"]

PROGRAMS = ("check", "prepare")


if not only_help_is_asked_for():
    for _module in pkgutil.iter_modules(__path__):
        if not _module.ispkg and _module.name not in PROGRAMS:
            importlib.import_module(f"{__name__}.{_module.name}")
