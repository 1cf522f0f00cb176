"""What a kind of figure is asked for and what it gives, the common look, and the files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dassl.utils import printable, write_bytes_atomically

BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072b2", "#d55e00", "#009e73", "#8c8c8c", "#d9d9d9"  # Okabe and Ito's, and greys
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""By format: equal figures are equal files."""
COMMON_STYLE: dict[Any, Any] = {  # keys of matplotlib's rcParams
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "text.parse_math": False,  # a $ in a name is a dollar
}
STYLE: dict[Any, Any] = COMMON_STYLE | {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.5,
    "grid.color": LIGHT,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",  # nothing is cut, however long the class names are
    "savefig.pad_inches": 0.03,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Args:
        runs: folders of runs, at least one.
        images: a file or folder of images; None: the kind's own choice.
        root: folder of the data sets; "": as recorded by the run.
    """

    runs: Sequence[Path]
    images: Path | None = None
    root: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure of a run, and a line about it for the terminal."""

    run: Path
    figure: Figure
    summary: str


def write(figure: Figure, path: Path, **options: Any) -> list[Path]:
    """Write all formats of a figure.

    Args:
        path: without suffix.
        options: of matplotlib's `savefig`.

    Raises:
        UnwritableFileError: a file cannot be written.
    """
    written = []
    for suffix, metadata in METADATA.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix, metadata=metadata, **options)
        written.append(path.with_name(f"{path.name}.{suffix}"))
        write_bytes_atomically(written[-1], content.getbuffer())
    return written


def named_bars(axes: Axes, values: Sequence[float], names: Sequence[str], texts: Sequence[str], **style: Any) -> None:
    """A bar for each value, the first on top, with its name beside the axis and its text at the end of the bar.

    Args:
        style: keywords of matplotlib's `barh`.
    """
    axes.barh(range(len(values)), values, **style)
    axes.set_yticks(range(len(values)), names)
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        side, edge = (1, "left") if value >= 0 else (-1, "right")
        behind: dict[str, Any] = {"xytext": (3 * side, 0), "textcoords": "offset points", "ha": edge, "va": "center"}
        axes.annotate(text, (value, place), **behind, fontsize=6)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)


def shortened(text: str, length: int = 28) -> str:
    """A name without hidden characters, shortened in the middle to `length` characters."""
    text = printable(text)
    if len(text) <= length:
        return text
    end = (length - 1) // 3
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices 0 .. count - 1, evenly spaced, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def names_by_place(folders: Sequence[Path]) -> list[Path]:
    """Folders as paths below what they have in common; one folder alone gives an empty path."""
    full = [folder.absolute() for folder in folders]
    common = os.path.commonpath(full)
    return [folder.relative_to(common) for folder in full]
