"""Tensors that grow batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


class GrowingTensors:
    """Columns of equal length. Their storage doubles when it is full.

    Small tensors kept from each batch would lie between the large temporary ones of the next and fragment the heap:
    with 1,000 classes that took 2 MB a batch, hundreds of times the size of the kept values.
    """

    def __init__(self) -> None:
        self._columns: list[Tensor] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, *batch: Tensor) -> None:
        """Copy a batch to the ends of the columns: one tensor [B, ...] for each, with B alike."""
        if not self._columns:
            self._columns = [tensor.new_empty(0, *tensor.shape[1:], device="cpu") for tensor in batch]
        end = self._length + len(batch[0])
        if end > len(self._columns[0]):
            more = max(2 * end, 4096) - len(self._columns[0])
            self._columns = [torch.cat([column, column.new_empty(more, *column.shape[1:])]) for column in self._columns]
        for column, tensor in zip(self._columns, batch, strict=True):
            column[self._length : end] = tensor
        self._length = end

    def columns(self) -> tuple[Tensor, ...]:
        """Views of what was appended [N, ...]."""
        return tuple(column[: self._length] for column in self._columns)
