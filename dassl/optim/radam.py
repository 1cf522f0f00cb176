"""RAdam under the import path of the lineage; PyTorch has it."""

from torch.optim import RAdam

__all__ = ["RAdam"]
