"""The configuration tree of the lineage."""

from .defaults import get_cfg_default
from .merge import clean_cfg, merge_file, merge_opts
from .tree import plain

__all__ = ["clean_cfg", "get_cfg_default", "merge_file", "merge_opts", "plain"]
