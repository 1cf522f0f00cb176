"""Helpers under the module path of the lineage; each is defined in the module of its subject."""

from __future__ import annotations

from typing import Any

from .downloads import download_url
from .environment import collect_env_info, set_random_seed
from .files import check_isfile, listdir_nohidden, mkdir_if_missing, read_json, write_json
from .images import read_image
from .names import check_availability, get_most_similar_str_to_a_from_b


def tolist_if_not(x: Any) -> list:
    """`x` itself when it is a list, otherwise a list with `x`."""
    return x if isinstance(x, list) else [x]
