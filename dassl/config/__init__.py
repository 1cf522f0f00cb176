"""The configuration tree of the lineage."""

from .defaults import get_cfg_default
from .differences import CHANGES_NO_NUMBER, Difference, config_differences, leaves
from .merge import clean_cfg, merge_file, merge_opts
from .node import plain
from .ranges import check_ranges
