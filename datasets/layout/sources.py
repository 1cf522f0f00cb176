"""How a reader declares the sources and the expected content of its data set.

Addresses and counts: CoOp's DATASETS.md and the statistics table of the CoOp paper; MD5 sums and the addresses that
replace dead ones: torchvision 0.29 (`torchvision/datasets/*.py`) and the data sets' own pages. The MD5 sums of
StanfordCars and of Caltech101's inner archive are those of torchvision 0.13 and 0.17, which still downloaded them.
torchvision itself checks ImageNet's archives.
"""

from __future__ import annotations

from typing import NamedTuple


class Download(NamedTuple):
    """One archive or file, and the target of its content.

    Attributes:
        file: its name, also in --from-dir.
        url, drive_id: its address; with neither, it must be downloaded by hand.
        by_hand: instructions for that.
        md5: of the file, if known.
        moves: (path inside the archive, path below the data set's folder); "." for the archive's top and for the data
            set's folder; empty for a file that is not an archive.
        inner: an archive inside the archive, unpacked first, in its folder.
        imagenet: "train" or "val" for ImageNet's own archives, which must be arranged.
        companion: another archive that arranging needs.
    """

    file: str
    url: str = ""
    drive_id: str = ""
    by_hand: str = ""
    md5: str = ""
    moves: tuple[tuple[str, str], ...] = ()
    inner: str = ""
    imagenet: str = ""
    companion: str = ""


class Piece(NamedTuple):
    """A file or folder of a data set; it is complete if `provides` exists. Sources are tried in their order."""

    provides: str
    sources: tuple[Download, ...]


class Counts(NamedTuple):
    """Classes, and images with the official split; None if the data set has no such part."""

    classes: int
    train: int | None
    val: int | None
    test: int


def drive(provides: str, drive_id: str, file: str = "") -> Piece:
    """From Google Drive: the file itself, or an archive of another name."""
    return Piece(provides, (Download(file or provides, drive_id=drive_id, moves=_moves(file or provides, provides)),))


def web(provides: str, url: str, md5: str = "", inside: str = "", to: str = "", inner: str = "") -> Piece:
    """From an address: the file itself, or an archive of which one file or folder is used."""
    file = url.rpartition("/")[2]
    return Piece(provides, (Download(file, url=url, md5=md5, moves=_moves(file, provides, inside, to), inner=inner),))


def by_hand(provides: str, file: str, how: str, md5: str = "", inside: str = "") -> Piece:
    """As `web`, for what must be downloaded by hand."""
    return Piece(provides, (Download(file, by_hand=how, md5=md5, moves=_moves(file, provides, inside)),))


def either(*pieces: Piece) -> Piece:
    """The same piece from several sources."""
    return Piece(pieces[0].provides, tuple(source for piece in pieces for source in piece.sources))


def _moves(file: str, provides: str, inside: str = "", to: str = "") -> tuple[tuple[str, str], ...]:
    """What is used of an archive, by default what it provides; empty if the file itself is that."""
    return () if file == provides else ((inside or provides, to or provides),)


VGG = "https://www.robots.ox.ac.uk/~vgg/data"
"""Where the Visual Geometry Group has its data sets."""
CLASSNAMES = drive("classnames.txt", "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF")
"""ImageNet and its companions share this file; one copy is enough."""
