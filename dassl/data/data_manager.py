"""Loaders of batches from the lists of a data set."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset
from yacs.config import CfgNode

from dassl.utils.errors import BadValueError, MismatchError, UserError, one_line
from dassl.utils.images import read_image
from dassl.utils.random_state import (
    check_random_state,
    random_state,
    restore_random_state,
    same_random_state_afterwards,
)
from dassl.utils.safe_text import printable

from .datasets import build_dataset
from .datasets.base_dataset import Datum
from .lasting_workers import EpochSeeds
from .loader_position import CollateInWorker, Position, RestOfPass
from .samplers import build_sampler

# The transforms are imported where they are used, so that `import dassl.engine` does not import torchvision.


class DatasetWrapper(Dataset):
    """Reads and transforms the images of a list.

    An item is a dictionary with `label`, `domain`, `impath`, `index` and `img`. With K_TRANSFORMS above 1
    (training only) `img` is a list of that many views; with a list of transforms there are `img`, `img2`, ...;
    with RETURN_IMG0 there is `img0`, the image resized only.

    Args:
        data_source: the images.
        transform: from PIL image to tensor; or a list of transforms; or None for the PIL image itself.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise BadValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform")
        from .transforms.transforms import build_unaugmented_transform

        self.to_tensor = build_unaugmented_transform(cfg)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        img0 = read_image(item.impath, self.cfg.INPUT.MAX_PIXELS, self.cfg.INPUT.MAX_ASPECT_RATIO)
        if self.transform is None:
            output["img"] = img0
        else:
            transforms = self.transform if isinstance(self.transform, Sequence) else [self.transform]
            for number, transform in enumerate(transforms, start=1):
                output["img" if number == 1 else f"img{number}"] = self._transform_image(transform, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def _transform_image(self, transform: Callable, img0: Any) -> Any:
        views = [transform(img0) for _ in range(self.k_tfm)]
        return views[0] if len(views) == 1 else views


class ImageLoader(DataLoader):
    """PyTorch's DataLoader, with three differences.

    A UserError in a worker process keeps its one-line message. With `persistent_workers`, each pass draws the same
    random numbers, in this process and in the workers, as with new workers. A `resumable` loader tells its position
    within a pass, from which a loader in another process continues.

    Args:
        resumable: whether `position` can be used. Only for transforms and datasets without own state, and with
            `persistent_workers` if there are workers.
        options: PyTorch's arguments.
    """

    _pass: _Pass | None = None
    """The latest pass, with persistent workers."""
    _position: Position | None = None
    """Where the latest pass is, if it can be resumed."""
    _continued: Position | None = None
    """Where the next pass starts, if not at its beginning."""

    def __init__(self, *arguments: Any, resumable: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.resumable = resumable
        if resumable:
            self.collate_fn = CollateInWorker(self.collate_fn)

    def check_worker_number_rationality(self) -> None:
        """PyTorch warns of more workers than cores. Their number belongs to a recipe: it changes the augmentations."""

    def position(self) -> dict[str, Any]:
        """Where the latest pass is after the batch that was returned last: numbers and tensors for a checkpoint."""
        assert self._position is not None, "only a resumable loader knows its position, from its first pass on"
        return self._position.plain()

    def continue_from(self, position: dict[str, Any]) -> None:
        """Let the next pass continue at a `position` of a loader with the same images and settings.

        Raises:
            MismatchError: the position is damaged, or this loader cannot continue there.
        """
        refusal = MismatchError("the position within the epoch does not fit the training images")
        try:
            continued = Position(**position)
            states = continued.start, continued.now, *continued.workers.values()
            batches, workers = int(continued.batches), int(continued.num_workers)
            for state in states:
                check_random_state(state)
        except (TypeError, ValueError, AttributeError, KeyError, RuntimeError, OverflowError) as error:
            raise refusal from error
        if not self.resumable or not 0 <= batches <= len(self):
            raise refusal
        if workers != self.num_workers:
            raise MismatchError(f"the epoch was begun with {workers} workers: set DATALOADER.NUM_WORKERS {workers}")
        self._continued = continued

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride] - PyTorch names its own class
        continued, self._continued = self._continued, None
        if self.resumable:
            self._start_pass(continued)
        if not self.persistent_workers:
            return _Pass(self, super().__iter__())
        if self._pass is not None and self._pass.is_over and self._workers_have_current_dataset():
            self._seeds.announce_next_pass()
        else:  # the first pass, or the previous one was left early or failed and still uses its workers
            self.release_workers()
            self._seeds = self.worker_init_fn = EpochSeeds(continued)
            self._sent = dict(vars(self.dataset))
        self._pass = _Pass(self, super().__iter__())
        return self._pass

    def _start_pass(self, continued: Position | None) -> None:
        """Set the position, and the indices that are left."""
        assert isinstance(self.batch_sampler, BatchSampler) and self.batch_size is not None
        if continued is None:
            self._position = Position(random_state(), self.num_workers)
            self.batch_sampler.sampler = self.sampler
            return
        assert continued.now is not None
        restore_random_state(continued.start)  # PyTorch now draws as at the start; RestOfPass restores `now`
        self.release_workers()
        self.batch_sampler.sampler = RestOfPass(self.sampler, continued.batches * self.batch_size, continued.now)
        self._position = replace(continued, workers=dict(continued.workers))

    def _workers_have_current_dataset(self) -> bool:
        """Whether the data set still has the attributes with which it was sent to the workers."""
        now = vars(self.dataset)
        return now.keys() == self._sent.keys() and all(now[name] is self._sent[name] for name in now)

    def release_workers(self) -> None:
        """Let persistent workers end as soon as their pass is no longer used."""
        self._pass = self._iterator = None


class _Pass:
    """One pass over a loader; removes the traceback that PyTorch puts into the messages of worker errors."""

    def __init__(self, loader: ImageLoader, batches: Iterator[Any]) -> None:
        self._loader, self._batches, self._position = weakref.ref(loader), batches, loader._position
        self.is_over = False
        """Whether all batches have been read."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            read = next(self._batches)
            return read if self._position is None else self._position.take(read)
        except StopIteration:
            self.is_over = True
            self._batches = iter(())  # later batches of the workers belong to the next pass
            raise
        except UserError as error:
            self._end_workers(error)
            raise type(error)(_without_traceback(" ".join(map(str, error.args)))) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or "Traceback" in str(error):
                raise
            self._end_workers(error)
            raise UserError(
                f"{one_line(error, 1000)} Fewer workers need less memory: DATALOADER.NUM_WORKERS 0"
            ) from None

    def _end_workers(self, error: Exception) -> None:
        """Release PyTorch's iterator, which is in a reference cycle with the error's frames.

        If the garbage collector did it, each worker would end only after five seconds.
        """
        error.__traceback__ = None
        self._batches = iter(())
        loader = self._loader()
        if loader is not None and loader._pass is self:
            loader.release_workers()


def _without_traceback(message: str) -> str:
    """The original message of a worker's error, which PyTorch replaced by a formatted traceback."""
    lines = message.rstrip().splitlines()
    return lines[-1].partition(": ")[2] if len(lines) > 1 else message  # the last line is "module.Class: message"


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Dataset] | None = None,
    lasting_workers: bool = False,
) -> DataLoader:
    """A loader of batches.

    In training the last, incomplete batch is dropped when there is a complete one.

    Args:
        n_domain: for RandomDomainSampler, domains per batch.
        n_ins: for RandomClassSampler, images per class in a batch.
        dataset_wrapper: class to use in place of DatasetWrapper.
        lasting_workers: keep the worker processes between epochs, and let the loader tell its position within one.
            Only for transforms and wrappers without own state, because a worker's copy of it is not reset in each
            epoch.

    Raises:
        BadValueError: there are no images, or the batch size or the number of workers is invalid.
    """
    if not data_source:
        raise BadValueError(f"no images to load for {'training' if is_train else 'evaluation'}")
    if not 1 <= batch_size < 2**31:
        raise BadValueError(f"the batch size must be positive (and below 2**31), not {batch_size}")
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise BadValueError(f"DATALOADER.NUM_WORKERS cannot be negative: {cfg.DATALOADER.NUM_WORKERS}")
    sampler = build_sampler(
        sampler_type, cfg=cfg, data_source=data_source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
    )
    wrapper = dataset_wrapper or DatasetWrapper
    return ImageLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        persistent_workers=lasting_workers and cfg.DATALOADER.NUM_WORKERS > 0,
        resumable=lasting_workers,
    )


class DataManager:
    """The data set of the configuration and its loaders; prints a summary.

    Args:
        custom_tfm_train: replaces the training transform of `cfg.INPUT`.
        custom_tfm_test: replaces the transform for validation and test.
        dataset_wrapper: class to use in place of DatasetWrapper.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Callable | Sequence[Callable] | None = None,
        custom_tfm_test: Callable | Sequence[Callable] | None = None,
        dataset_wrapper: Callable[..., Dataset] | None = None,
    ) -> None:
        # the first run draws the split and the few-shot images, later ones read them: both must train alike
        with same_random_state_afterwards():
            dataset = build_dataset(cfg)
        tfm_train = _chosen_transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = _chosen_transform(cfg, custom_tfm_test, is_train=False)

        def loader(data_source: list[Datum], settings: CfgNode, is_train: bool = True) -> DataLoader:
            of_sampler = {"n_domain": settings.N_DOMAIN, "n_ins": settings.N_INS} if is_train else {}
            return build_data_loader(
                cfg,
                sampler_type=settings.SAMPLER,
                data_source=data_source,
                batch_size=settings.BATCH_SIZE,
                tfm=tfm_train if is_train else tfm_test,
                is_train=is_train,
                dataset_wrapper=dataset_wrapper,
                lasting_workers=is_train and custom_tfm_train is None and dataset_wrapper is None,
                **of_sampler,
            )

        if dataset_wrapper is None and None in (tfm_train, tfm_test):
            raise BadValueError("images without transforms cannot be batched: set INPUT.NO_TRANSFORM False")
        loaders = cfg.DATALOADER
        self.train_loader_x = loader(dataset.train_x, loaders.TRAIN_X)
        self.train_loader_u = None
        if dataset.train_u:
            same_as_x = loaders.TRAIN_U.SAME_AS_X
            self.train_loader_u = loader(dataset.train_u, loaders.TRAIN_X if same_as_x else loaders.TRAIN_U)
        self.val_loader = loader(dataset.val, loaders.TEST, is_train=False) if dataset.val else None
        self.test_loader = loader(dataset.test, loaders.TEST, is_train=False)
        self.num_classes = dataset.num_classes
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self.lab2cname = dataset.lab2cname
        self.dataset = dataset
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print one line with the data set's name, domains and numbers of classes and images."""
        rows = [("Dataset", printable(getattr(self.dataset, "display_name", cfg.DATASET.NAME)))]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(("Source", str(list(cfg.DATASET.SOURCE_DOMAINS))))
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(("Target", str(list(cfg.DATASET.TARGET_DOMAINS))))
        rows.append(("# classes", f"{self.num_classes:,}"))
        for split in ("train_x", "train_u", "val", "test"):
            images = getattr(self.dataset, split)
            if images or split in ("train_x", "test"):
                rows.append((f"# {split}", f"{len(images):,}"))
        print(", ".join(f"{name} {value}" for name, value in rows))


def _chosen_transform(cfg: CfgNode, custom: Any, is_train: bool) -> Any:
    if custom is None:
        from .transforms import build_transform

        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom


def __getattr__(name: str) -> Any:
    """`build_transform`, which trainer files import from here; torchvision is slow to import."""
    if name == "build_transform":
        from .transforms import build_transform

        return build_transform
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
