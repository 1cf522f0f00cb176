"""Verifies a data set on disk, and says what is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool

from dassl.data.datasets import Datum
from dassl.utils import UserError, file_sha256, printable, read_image
from dassl.utils.progress import progress_bar
from datasets.acquire import FAST_SAMPLE
from datasets.acquire.class_counts import ClassCount, count_classes
from datasets.layout.base import CoOpLayout
from datasets.layout.custom_data import CustomData
from datasets.layout.errors import BadDataError, MissingDataError, with_remedy
from datasets.layout.sources import Counts
from datasets.layout.splits import PART_NAMES, Parts

MAX_NAMED = 10  # absent classes named in one line


def print_report(
    reader: CoOpLayout,
    fast: bool,
    counts: Counts | None,
    describe_classes: Callable[[Sequence[ClassCount]], list[str]] | None = None,
    read: Callable[[str], object] = read_image,
) -> bool:
    """Verify one data set and print the lines about it; returns whether it is valid.

    Args:
        reader: from `SomeReader.at(folder)`.
        fast: decode a sample of the images instead of all.
        counts: the expected numbers, None if unknown.
        describe_classes: returns the lines about the number of images of each class; None: no lines.
        read: raises UserError for an image that cannot be decoded.
    """
    bad_files: list[str] = []
    class_counts: list[ClassCount] = []
    state = "ok"
    try:
        with with_remedy(reader.name, reader.remedy), contextlib.redirect_stdout(io.StringIO()):
            message = _verify(reader, fast, counts, read, bad_files, class_counts)
    except UserError as error:
        state = "missing" if isinstance(error, MissingDataError) else "wrong"
        message = str(error).removeprefix(reader.name + ": ")
        bad_files += [f"missing: {path}" for path in getattr(error, "files", ())]
    class_lines = describe_classes(class_counts) if describe_classes else []
    lines = {state: [message], "bad": bad_files, "note": reader.notes, "class": class_lines}
    for kind, texts in lines.items():
        for text in texts:
            print(f"{kind:8s} {printable(reader.display_name):20s} {printable(text)}", flush=True)
    return state == "ok"


def _verify(
    reader: CoOpLayout,
    fast: bool,
    counts: Counts | None,
    read: Callable[[str], object],
    bad_files: list[str],
    class_counts: list[ClassCount],
) -> str:
    """Check as `print_report` says, and describe the content; `bad_files` and `class_counts` receive what is found.

    Raises:
        MissingDataError: files are missing.
        BadDataError: the data is wrong.
    """
    parts = reader.read()
    labels = {item.label for part in parts for item in part}
    class_counts += count_classes(_distinct(parts))
    # training would create another split, which differs from that of the papers
    if counts and reader.split_file and not reader.split_in_use():
        raise MissingDataError(f"split file {reader.split_path} is missing")
    wrong = _wrong_counts(reader, parts, len(labels), counts) if counts else []
    try:
        reader.check_names(parts)
    except BadDataError as error:  # training would refuse them
        wrong.append(str(error))
    items = list(dict.fromkeys(item.impath for part in parts for item in part))
    checked = random.Random(0).sample(items, min(FAST_SAMPLE, len(items))) if fast else items
    bad_files += _unreadable(checked, reader.name, read)
    wrong += [reader.listed_twice] if reader.listed_twice else []
    if bad_files:
        wrong.append(f"{len(bad_files):,} of {len(checked):,} images cannot be read, first: {bad_files[0]}")
    if isinstance(reader, CustomData):
        wrong += _repeated_content(reader, _distinct(parts))
    if wrong:
        raise BadDataError("; ".join(wrong))
    sizes = ", ".join(f"{name} {len(items):,}" for name, items in zip(PART_NAMES, _distinct(parts), strict=True))
    served = " (the val images are also the test images)" if parts.val and parts.val is parts.test else ""
    return f"{len(labels):,} classes, {sizes}{served}; {len(checked):,} images decoded"


def _repeated_content(reader: CustomData, parts: Parts) -> list[str]:
    """Problems with files of identical content. In a split made by us, a pair in two parts is only a note.

    An image with two labels trains both; an image in two parts is used for training and for testing.
    """
    owners: dict[str, tuple[str, Datum]] = {}
    labels, across = [], []
    for digest, part, item in _same_bytes(parts):
        first_part, first = owners.setdefault(digest, (part, item))
        pair = f"{first.impath} and {item.impath}"
        if first.label != item.label:
            labels.append(f"{pair} ({first.classname!r} and {item.classname!r})")
        elif first_part != part:
            across.append(f"{pair} ({first_part} and {part})")
    wrong = [f"{len(labels):,} images have two labels: {', '.join(labels)}"] if labels else []
    if across:
        described = f"{len(across):,} images are in two parts: {', '.join(across)}"
        if reader.parts_are_given():
            wrong.append(described)
        else:
            reader.note(described)
    return wrong


def _same_bytes(parts: Parts) -> Iterator[tuple[str, str, Datum]]:
    """Digest, part and item of each image that has the same size as another one."""
    by_size: dict[int, list[tuple[str, Datum]]] = {}
    for part, items in zip(PART_NAMES, parts, strict=True):
        for item in items:
            if os.path.isfile(item.impath):
                by_size.setdefault(os.path.getsize(item.impath), []).append((part, item))
    for same_size in by_size.values():
        if len(same_size) > 1:
            for part, item in same_size:
                with contextlib.suppress(OSError):  # the decoder reports it
                    yield file_sha256(item.impath), part, item


def _distinct(parts: Parts) -> Parts:
    """`parts` with an empty val if val is the test part."""
    return parts._replace(val=[]) if parts.val is parts.test else parts


def _wrong_counts(reader: CoOpLayout, parts: Parts, classes: int, counts: Counts) -> list[str]:
    """Differences from the published counts, in one clause."""
    wrong = []
    if classes != counts.classes:
        absent = ", ".join(reader.absent_classes()[:MAX_NAMED])
        wrong.append(f"{classes:,} classes instead of {counts.classes:,}" + (f" (without {absent})" if absent else ""))
    for part, items, expected in zip(PART_NAMES, _distinct(parts), counts[1:], strict=True):
        if expected is not None and len(items) != expected:
            wrong.append(f"{len(items):,} {part} images instead of {expected:,}")
    return [f"{reader.dataset_dir} has {', '.join(wrong)}"] if wrong else []


def _unreadable(paths: Sequence[str], name: str, read: Callable[[str], object]) -> list[str]:
    """A message for each image that cannot be decoded."""

    def reason_unreadable(path: str) -> str:
        try:
            read(path)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPool(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        results = pool.imap(reason_unreadable, paths, chunksize=16)
        return [reason for reason in progress_bar(results, total=len(paths), desc=name, unit="image") if reason]
