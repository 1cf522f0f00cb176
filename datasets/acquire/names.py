"""Which data sets there are, and by which names a user may call them."""

from __future__ import annotations

import difflib

import datasets  # noqa: F401  registers the readers
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from datasets.acquire.sources import RECIPES
from datasets.layout.base import CoOpLayout
from datasets.shapes import Embedded

EMBEDDED = tuple(cls.__name__ for cls in (*Embedded.__subclasses__(),))


def reader_class(name: str) -> type[CoOpLayout]:
    """The reader that is registered under ``name``."""
    return DATASET_REGISTRY.get(name)


def resolve(name: str) -> str:
    """The registered name for ``name``: that in any case, or the name of a config file ("dtd", "oxford_pets")."""
    spellings = {}
    for known in (*RECIPES, *EMBEDDED):
        cls = reader_class(known)
        for spelling in (known, cls.__module__.rpartition(".")[2] if known in RECIPES else cls.dataset_dir):
            spellings[spelling.lower()] = known
    if name.lower() not in spellings:
        near = difflib.get_close_matches(name.lower(), spellings, n=1)
        hint = f"; did you mean {spellings[near[0]]}?" if near else f"; there are {', '.join((*RECIPES, *EMBEDDED))}"
        raise UserError(f"unknown data set {name!r}{hint}")
    return spellings[name.lower()]
