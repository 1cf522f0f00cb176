"""The data sets and the names under which a user can select them."""

from __future__ import annotations

import datasets  # noqa: F401  registers the readers
from dassl.data.datasets import DATASET_REGISTRY
from dassl.spelling import nearest_name
from dassl.utils import UserError
from datasets.layout.base import CoOpLayout
from datasets.layout.sources import Counts


def readers() -> dict[str, type[CoOpLayout]]:
    """All readers by their registered names."""
    found = ((name, DATASET_REGISTRY.get(name)) for name in DATASET_REGISTRY.registered_names())
    return {name: cls for name, cls in found if isinstance(cls, type) and issubclass(cls, CoOpLayout)}


def downloadable() -> list[str]:
    """Names of the data sets that `datasets.prepare` downloads."""
    return [name for name in readers() if DATASET_REGISTRY.stated(name, "pieces", ())]


def readers_of_papers() -> dict[str, str]:
    """Registered name -> name in the papers' tables, of the readers that state one."""
    names = {name: DATASET_REGISTRY.stated(name, "paper_name", "") for name in readers()}
    return {name: paper_name for name, paper_name in names.items() if paper_name}


def generated() -> list[str]:
    """Names of the data sets that are generated."""
    return [name for name, cls in readers().items() if cls.generated]


def expected_counts(name: str) -> Counts | None:
    """The expected numbers of classes and images; None if its reader does not define them."""
    return DATASET_REGISTRY.stated(name, "counts", None)


def reader_name(name: str) -> str:
    """The registered name for `name`: that in any case, or the name of a config file ("dtd", "oxford_pets").

    Raises:
        UserError: there is no such data set.
    """
    known, classes = [*downloadable(), *generated()], readers()
    spellings = {}
    for each in known:
        cls = classes[each]
        for spelling in (each, cls.dataset_dir if cls.generated else cls.__module__.rpartition(".")[2]):
            spellings[spelling.lower()] = each
    if name.lower() not in spellings:
        near = nearest_name(name, spellings)
        hint = f"; did you mean {spellings[near]}?" if near else f"; available: {', '.join(known)}"
        raise UserError(f"unknown data set {name!r}{hint}")
    return spellings[name.lower()]
