"""The methods. Importing this package registers every trainer that a file in it defines."""

from __future__ import annotations

import importlib
import pkgutil

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from trainers.core.ranges import check_all_ranges

__all__ = ["add_config", "check_all_ranges"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def add_config(cfg: CfgNode) -> None:
    """Add what all methods share, and the defaults of every registered trainer that has some (`add_config(cfg)`)."""
    # classes that the text tower encodes at a time, recomputed in backward passes; 0: all at once, and kept
    cfg.TRAINER.TEXT_CHUNK = 0
    cfg.TRAINER.FUSED = "auto"  # layer norms, QuickGELU, parts of attention as Triton kernels: auto (on a GPU), on, off
    cfg.TRAINER.TF32 = False  # float32 products on a GPU in TF32: faster, 10 bits
    cfg.TRAINER.CUDA_GRAPH = "auto"  # steps and test batches as CUDA graphs: auto (on a GPU), on, off
    cfg.TRAINER.CPU_REPLAY = "auto"  # on a CPU as recorded operations: auto (where tensors are small), on, off
    for name in TRAINER_REGISTRY.registered_names():
        add = getattr(TRAINER_REGISTRY.get(name), "add_config", None)
        if add is not None:
            add(cfg)
