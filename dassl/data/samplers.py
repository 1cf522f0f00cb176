"""Orders in which images are visited."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from torch.utils.data.sampler import RandomSampler, SequentialSampler
from yacs.config import CfgNode

from dassl.utils.errors import BadValueError
from dassl.utils.names import check_availability


class _PlannedSampler(Sampler[int]):
    """A sampler that plans an epoch at a time; the constructor plans one to find its length."""

    def __init__(self) -> None:
        self.length = len(list(iter(self)))

    def plan(self) -> list[int]:
        """Indices of one epoch; each subclass defines them."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self.plan())

    def __len__(self) -> int:
        return self.length


def _indices_by(attribute: str, data_source: Sequence[Any]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return dict(groups)


class _DomainSampler(_PlannedSampler):
    """Batches with equally many images of each of some domains, drawn without replacement until a domain runs out."""

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_domain: int) -> None:
        self.domain_dict = _indices_by("domain", data_source)
        self.domains = list(self.domain_dict)
        if n_domain is None or n_domain <= 0:
            n_domain = len(self.domains)
        if batch_size % n_domain:
            raise BadValueError(
                f"BATCH_SIZE {batch_size} is not a multiple of the number of domains in a batch, {n_domain}"
            )
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_domain = n_domain
        self.n_img_per_domain = batch_size // n_domain
        super().__init__()

    def next_domains(self) -> list[int]:
        """The domains of the next batch; each subclass defines them."""
        raise NotImplementedError

    def plan(self) -> list[int]:
        left = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        planned: list[int] = []
        while min(len(indices) for indices in left.values()) >= self.n_img_per_domain:
            for domain in self.next_domains():
                drawn = random.sample(left[domain], self.n_img_per_domain)
                planned.extend(drawn)
                left[domain] = [index for index in left[domain] if index not in set(drawn)]
        return planned


class RandomDomainSampler(_DomainSampler):
    """Each batch: `n_domain` random domains (0 for all) with equally many images."""

    def next_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """Each batch: all domains in ascending order with equally many images."""

    def __init__(self, data_source: Sequence[Any], batch_size: int) -> None:
        super().__init__(data_source, batch_size, n_domain=0)

    def next_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_PlannedSampler):
    """Each batch: `batch_size // n_ins` random classes with `n_ins` images each.

    A class with fewer images has some drawn repeatedly. Ends when too few classes are left for a batch.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise BadValueError(f"BATCH_SIZE {batch_size} must not be smaller than N_INS {n_ins}")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = _indices_by("label", data_source)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise BadValueError(f"a batch needs {self.ncls_per_batch} classes, but there are only {len(self.labels)}")
        super().__init__()

    def plan(self) -> list[int]:
        chunks = {label: self._chunks(label) for label in self.labels}
        available = list(self.labels)
        planned: list[int] = []
        while len(available) >= self.ncls_per_batch:
            for label in random.sample(available, self.ncls_per_batch):
                planned.extend(chunks[label].pop(0))
                if not chunks[label]:
                    available.remove(label)
        return planned

    def _chunks(self, label: int) -> list[list[int]]:
        """The images of a class in random order, cut into pieces of `n_ins`; a shorter rest is dropped."""
        indices = list(self.index_dic[label])
        if len(indices) < self.n_ins:
            indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
        random.shuffle(indices)
        full = len(indices) // self.n_ins * self.n_ins
        return [indices[start : start + self.n_ins] for start in range(0, full, self.n_ins)]


AVAI_SAMPLERS = ["RandomDomainSampler", "SeqDomainSampler", "RandomSampler", "SequentialSampler", "RandomClassSampler"]


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Any] = (),
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """The sampler called `sampler_type`.

    RandomSampler and SequentialSampler are PyTorch's, RandomSampler without its own generator: each epoch draws
    one number from PyTorch's global generator. The others draw with Python's (and NumPy's) global generator.

    Raises:
        UnknownNameError: there is no such sampler.
        BadValueError: the numbers do not fit together.
    """
    check_availability(sampler_type, AVAI_SAMPLERS, kind="sampler")
    match sampler_type:
        case "RandomSampler":
            return RandomSampler(data_source)
        case "SequentialSampler":
            return SequentialSampler(data_source)
        case "RandomDomainSampler":
            return RandomDomainSampler(data_source, batch_size, n_domain)
        case "SeqDomainSampler":
            return SeqDomainSampler(data_source, batch_size)
        case _:
            return RandomClassSampler(data_source, batch_size, n_ins)
