"""The position of a loader within a pass, from which another process continues with the same images and bits.

The order of a pass is drawn from the global generators when it starts: their state at that moment gives the same order
again, of which what has been read is left out. A worker draws the augmentations of its batches from generators of its
own. With each batch it sends their state, so a new worker continues from there without reading earlier images.

Batch k of a pass is read by worker k modulo the number of workers. A new process counts from the first batch that is
left, so its worker j has the place of worker (batches + j) modulo the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data import Sampler, get_worker_info

from dassl.utils.random_state import CpuGenerators, random_state, restore_random_state


class Read(NamedTuple):
    """A batch from a worker, and the state of its generators afterwards."""

    batch: Any
    generators: CpuGenerators


@dataclass(frozen=True)
class CollateInWorker:
    """Collates the images of a batch; in a worker the batch becomes a `Read`."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        return batch if get_worker_info() is None else Read(batch, CpuGenerators.current())


@dataclass
class Position:
    """Where a pass is.

    Args:
        start: state of the global generators when the pass started.
        num_workers: number of workers.
        batches: batches read.
        workers: state of the generators of each worker that has read a batch, by its number in an uninterrupted pass.
        now: state of the global generators to continue with; None until `ImageLoader.position` sets it.
    """

    start: dict[str, Any]
    num_workers: int
    batches: int = 0
    workers: dict[int, dict[str, Any] | CpuGenerators] = field(default_factory=dict)
    now: dict[str, Any] | None = None

    def take(self, read: Any) -> Any:
        """Count a batch that the loader has returned; returns it without the state of the generators."""
        if isinstance(read, Read):
            self.workers[self.batches % self.num_workers] = read.generators
            read = read.batch
        self.batches += 1
        return read

    def plain(self) -> dict[str, Any]:
        """Numbers and tensors for a checkpoint; the constructor takes them back."""
        workers = {
            worker: state.plain() if isinstance(state, CpuGenerators) else state
            for worker, state in self.workers.items()
        }
        return {**vars(self), "workers": workers, "now": random_state()}

    def continue_worker(self, worker: int) -> dict[str, Any] | None:
        """State of the generators for a new worker; None: it has not read a batch."""
        state = self.workers.get(self.place(worker))
        assert not isinstance(state, CpuGenerators), "a position is continued in the form of `plain`"
        return state

    def place(self, worker: int) -> int:
        """Number in an uninterrupted pass of the new worker `worker`."""
        return (self.batches + worker) % self.num_workers


class RestOfPass(Sampler[int]):
    """The indices of a pass after those that were read.

    Args:
        sampler: draws the whole order from the generators' state at the start of the pass.
        read: number of indices that were read.
        now: state of the generators that is restored after the order is drawn.
    """

    def __init__(self, sampler: Any, read: int, now: dict[str, Any]) -> None:
        self._sampler, self._read, self._now = sampler, read, now

    def __iter__(self) -> Iterator[int]:
        order = list(self._sampler)
        restore_random_state(self._now)
        yield from order[self._read :]

    def __len__(self) -> int:
        """Length of the whole pass."""
        whole: Sized = self._sampler
        return len(whole)
