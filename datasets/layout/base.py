"""Base classes of all data sets in CoOp's layout: split, few-shot draw, base and new classes; targets for testing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Self

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase
from dassl.utils import BadValueError
from datasets.layout import draws, splits
from datasets.layout.classes import check_subsample, describe_same_text, subsample_classes
from datasets.layout.errors import BadDataError, MissingDataError, Remedy, with_remedy
from datasets.layout.files import require_folder
from datasets.layout.sources import Counts, Piece
from datasets.layout.splits import Parts
from datasets.layout.store import JsonStore


def full_path(path: str) -> str:
    """Absolute path with ~ expanded; symbolic links are kept."""
    return os.path.abspath(os.path.expanduser(path))


class CoOpLayout(DatasetBase):
    """A data set with its own folder below DATASET.ROOT."""

    dataset_dir: str = ""  # below DATASET.ROOT; in an instance: absolute
    image_folder: str = "images"  # below dataset_dir; paths in the split file are relative to it
    split_file: str | None = None  # below dataset_dir; None: the annotations are the split
    fewshot_folder: str = "split_fewshot"  # below dataset_dir; folder of the draw files
    template: str = "a photo of a {}."  # hand-written prompt of zero-shot CLIP
    paper_name: str = ""  # its name in the papers' tables
    pieces: tuple[Piece, ...] = ()  # files for `datasets.prepare`; empty: nothing to download
    counts: Counts | None = None  # expected classes and images
    is_own: bool = False  # the user's own data, whose folder may have any name
    generated: bool = False  # made by `shapes_world`, not downloaded

    @classmethod
    def folder_of(cls, cfg: CfgNode) -> str:
        """Absolute path of the data set's folder.

        Raises:
            BadValueError: DATASET.ROOT is not set.
        """
        if not cfg.DATASET.ROOT:
            raise BadValueError(f"{cls.__name__} needs a data folder: give --root DATA, or set the variable DATA")
        return os.path.join(full_path(cfg.DATASET.ROOT), cls.dataset_dir)

    def open(self, folder: str, output_dir: str = "") -> None:
        """Set all paths; reads nothing."""
        self.dataset_dir = folder
        self.notes: list[str] = []
        self.names_in_data: dict[int, str] = {}  # by label, if the user renames the classes
        self.listed_twice = ""  # description of images that the split file lists twice
        self.image_dir = os.path.join(folder, self.image_folder) if self.image_folder else folder
        self.split_path = os.path.join(folder, self.split_file) if self.split_file else None
        self.split_fewshot_dir = os.path.join(folder, self.fewshot_folder)
        self._store = JsonStore(folder, os.path.join(full_path(output_dir), "datasets", Path(folder).name))

    @classmethod
    def at(cls, folder: str) -> Self:
        """A reader of the data set in `folder` that has not read anything (for `python -m datasets.check`)."""
        reader = cls.__new__(cls)
        reader.open(folder)
        return reader

    @property
    def name(self) -> str:
        """The name in DATASET_REGISTRY."""
        return type(self).__name__

    @property
    def display_name(self) -> str:
        """The name of the data in tables."""
        return self.name

    @property
    def origin(self) -> str:
        """The command that downloads the data."""
        root = shlex.quote(str(Path(self.dataset_dir).parent))
        return f"python -m datasets.prepare {self.name} --root {root}"

    @property
    def remedy(self) -> Remedy:
        """Clauses that end the messages about missing and about wrong data."""
        again = f"fix or remove that, and download it again with: {self.origin}"
        return Remedy(f"download it with: {self.origin}", again)

    def note(self, text: str) -> None:
        """Print a note about usable data; `datasets.check` repeats it."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"Note: {text}")

    def split_in_use(self) -> str | None:
        """Path of the split file, None if there is none."""
        return self._store.find(self.split_file) if self.split_file else None

    def read(self) -> Parts:
        """The three parts on disk.

        Raises:
            MissingDataError: files are missing.
            BadDataError: the content of a file is wrong.
        """
        root = os.path.dirname(self.dataset_dir)
        if not os.path.isdir(root):
            raise MissingDataError(f"folder {self.dataset_dir} is missing, and so is {root} (--root)")
        require_folder(self.dataset_dir, "folder")
        require_folder(self.image_dir, "image folder")
        path = self.split_in_use()
        parts = splits.read_split(path, self.image_dir) if path else self.read_annotations()
        twice = splits.listed_twice(parts, path) if path else ""
        if twice:
            self.use_listed_twice(twice)
        self.check_parts(parts, path or self.dataset_dir)
        return parts

    def read_annotations(self) -> Parts:
        """The three parts from the data set's own annotations; missing parts are drawn with `random`."""
        raise MissingDataError(f"split file {self.split_path} is missing")

    def absent_classes(self) -> list[str]:
        """Classes without the folder that the data set's own files require."""
        return []

    def check_parts(self, parts: Parts, source: str) -> None:
        """Check that the labels of the parts fit together.

        Raises:
            BadDataError: they do not.
        """
        splits.check_labels(parts, source)

    def use_listed_twice(self, description: str) -> None:
        """Handle images that the split file lists with two labels or in two parts.

        A published split is used as it is; `datasets.acquire.check` reports it as wrong.
        """
        self.listed_twice = description
        self.note(description)

    def check_names(self, parts: Parts) -> None:
        """Note which classes have the same prompt text; published lists are used as they are."""
        described = describe_same_text(class_names(parts))
        if described:
            self.note(f"classes have {described}; results per class keep both")


def class_names(parts: Parts) -> list[str]:
    """Class names in ascending order of label."""
    names = {item.label: item.classname for part in parts for item in part}
    return [names[label] for label in sorted(names)]


class CoOpDataset(CoOpLayout):
    """A data set for training. A reader defines its folders and how to read the original annotations.

    Reads the split file if there is one, else the annotations (and then writes the split file). Draws
    DATASET.NUM_SHOTS images per class for train and at most 4 for val, or reads the draw of an earlier run with the
    same shots and seed, or that of DATASET.FEWSHOT_SPLIT. Then keeps the classes of DATASET.SUBSAMPLE_CLASSES.

    Raises:
        UserError: data is missing or wrong; the message names the remedy.
    """

    # the lineage's static names, which other repositories' readers call
    read_split = staticmethod(splits.read_split)
    save_split = staticmethod(splits.save_split)
    split_trainval = staticmethod(splits.split_trainval)
    read_and_split_data = staticmethod(splits.read_and_split_data)
    subsample_classes = staticmethod(subsample_classes)

    def __init__(self, cfg: CfgNode) -> None:
        subsample = check_subsample(cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"))
        self.open(self.folder_of(cfg), cfg.OUTPUT_DIR)
        if chosen := cfg.DATASET.get("SPLITS_DIR", ""):
            place = os.path.join(full_path(chosen), Path(self.dataset_dir).name)
            self._store = JsonStore(self.dataset_dir, self._store.spare, place, self.is_own)
        with with_remedy(self.name, self.remedy):
            parts = self.name_classes(self.load())
            self.check_names(parts)
        if cfg.DATASET.NUM_SHOTS >= 1 or cfg.DATASET.get("FEWSHOT_SPLIT", ""):
            parts = self.draw(parts, cfg)
        train, val, test = subsample_classes(*parts, subsample=subsample)
        super().__init__(train_x=train, val=val, test=test)

    def name_classes(self, parts: Parts) -> Parts:
        """The parts with the class names of the run."""
        return parts

    def load(self) -> Parts:
        """Read the parts, and write a new split unless it is refused. If another run was first, its split is used."""
        if not self.split_file or self.split_in_use():
            return self.read()
        parts = self.read()
        splits.require_images([item.impath for part in parts for item in part], f"the annotations of {self.name}")
        self.check_names(self.name_classes(parts))
        path = self._store.publish(self.split_file, splits.split_content(parts, self.image_dir))
        self.tell_of_new_file("Saved split", path)
        return self.read()

    def draw(self, parts: Parts, cfg: CfgNode) -> Parts:
        """Reduce train and val to the few-shot draw of the configuration."""
        num_shots, given = cfg.DATASET.NUM_SHOTS, cfg.DATASET.get("FEWSHOT_SPLIT", "")
        if num_shots < 1:
            raise BadValueError(f"DATASET.FEWSHOT_SPLIT needs DATASET.NUM_SHOTS of at least 1, not {num_shots}")
        sources = {"train": parts.train} if parts.val is parts.test else {"train": parts.train, "val": parts.val}
        if given:
            path = full_path(given)
            print(f"Loading preprocessed few-shot data from {path}")
            remedy = Remedy("set DATASET.FEWSHOT_SPLIT to an existing draw file", "correct DATASET.FEWSHOT_SPLIT")
        else:
            path = self._draw_file(num_shots, cfg.SEED, sources)
            remedy = Remedy("start the run again", "delete that file to draw again")
        with with_remedy(self.name, remedy):
            seed = None if given else cfg.SEED
            drawn = draws.read_draw(path, self.name, num_shots, sources, self.dataset_dir, seed, self.names_in_data)
        if "val" in sources and "val" not in drawn:
            self.note(f"{path} names no images of the val part; those are drawn with seed {cfg.SEED}")
            shots = draws.shots_of("val", num_shots)
            drawn["val"] = self.generate_fewshot_dataset(sources["val"], num_shots=shots)
        return Parts(drawn["train"], drawn.get("val", parts.test), parts.test)

    def _draw_file(self, num_shots: int, seed: int, sources: draws.Sources) -> str:
        """Path of the draw file; a missing one is written."""
        name = f"{self.fewshot_folder}/shot_{num_shots}-seed_{seed}.json"
        path = self._store.find(name)
        if path:
            print(f"Loading preprocessed few-shot data from {path}")
            return path
        drawn = {
            part: self.generate_fewshot_dataset(items, num_shots=draws.shots_of(part, num_shots))
            for part, items in sources.items()
        }
        content = draws.encode_draw(self.name, num_shots, seed, drawn, self.dataset_dir, self.names_in_data)
        path = self._store.publish(name, content)
        self.tell_of_new_file("Saving preprocessed few-shot data", path)
        return path

    def tell_of_new_file(self, what: str, path: str) -> None:
        """Print where a file was written."""
        print(f"{what} to {path}")


class TargetDataset(CoOpLayout):
    """A data set without training part: `train_x` is the test list, which defines class names and counts.

    NUM_SHOTS, SEED and SUBSAMPLE_CLASSES have no effect, as in the lineage.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.open(self.folder_of(cfg), cfg.OUTPUT_DIR)
        with with_remedy(self.name, self.remedy):
            parts = self.read()
            self.check_names(parts)
        test = parts.test
        super().__init__(train_x=test, test=test)

    def check_parts(self, parts: Parts, source: str) -> None:
        if not parts.test:
            raise BadDataError(f"{source}: the test part is empty")
        splits.check_labels(Parts(parts.test, [], parts.test), source)
