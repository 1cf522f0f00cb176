"""Where each data set comes from and what it should hold: one entry a data set.

Addresses and counts: CoOp's DATASETS.md and the statistics table of the CoOp paper; MD5 sums and the addresses that
replace dead ones: torchvision 0.29 (``torchvision/datasets/*.py``) and the data sets' own pages. The MD5 sums of
StanfordCars and of Caltech101's inner archive are those of torchvision 0.13 and 0.17, which still downloaded them.
torchvision itself checks ImageNet's archives.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """One archive or file, and where its content goes.

    Attributes:
        file: its name; with --from-dir the file is looked for under this name.
        url, drive_id: where to download it; neither: it has to be got by hand.
        by_hand: how to get it by hand.
        md5: of the file, where known.
        moves: (path inside the archive, path below the data set's folder); "." for the archive's top and for the data
            set's folder; empty for a file that is no archive.
        inner: an archive inside the archive, unpacked first, where it lies.
        imagenet: "train" or "val" for ImageNet's own archives, which need arranging.
        companion: another archive that is needed to arrange this one.
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
    """A file or folder of a data set; it is in place when ``provides`` exists. Sources are tried in their order."""

    provides: str
    sources: tuple[Source, ...]


class Counts(NamedTuple):
    """Classes, and images with the official split; None where a data set has no such part."""

    classes: int
    train: int | None
    val: int | None
    test: int


class Recipe(NamedTuple):
    pieces: tuple[Piece, ...]
    counts: Counts


def _drive(file: str, drive_id: str) -> Piece:
    """A plain file on Google Drive."""
    return Piece(file, (Source(file, drive_id=drive_id),))


def _archive(provides: str, url: str, md5: str = "", inside: str = "", to: str = "") -> Piece:
    """An archive with one thing of interest, by default the one it provides."""
    moves = ((inside or provides, to or provides),)
    return Piece(provides, (Source(url.rpartition("/")[2], url=url, md5=md5, moves=moves),))


def _by_hand(provides: str, file: str, how: str, inside: str = "", md5: str = "") -> Piece:
    moves = ((inside or provides, provides),)
    return Piece(provides, (Source(file, by_hand=how, moves=moves, md5=md5),))


_CLASSNAMES = _drive("classnames.txt", "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF")
_CARS = "the Stanford addresses are gone; mirrors exist, for instance on Kaggle (Stanford Cars)"
_IMAGENET = "ImageNet needs an account at https://image-net.org (ILSVRC2012, task 1 and 2)"
_IMAGENET_ARCHIVES = "ILSVRC2012_img_{}.tar"
_IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"

# data sets whose folder holds the same classnames.txt, so that one copy serves for all
CLASSNAMES_FOLDERS = ("imagenet", "imagenetv2", "imagenet-sketch", "imagenet-adversarial", "imagenet-rendition")

RECIPES: dict[str, Recipe] = {
    "Caltech101": Recipe(
        (
            Piece(
                "101_ObjectCategories",
                (
                    Source(
                        "caltech-101.zip",
                        url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                        md5="3138e1922a9193bfa496528edbbc45d0",
                        inner="caltech-101/101_ObjectCategories.tar.gz",
                        moves=(("caltech-101/101_ObjectCategories", "101_ObjectCategories"),),
                    ),
                    Source(
                        "101_ObjectCategories.tar.gz",
                        by_hand="the address in CoOp's DATASETS.md is dead",
                        md5="b224c7392d521a49829488ab0f1120d9",
                        moves=(("101_ObjectCategories", "101_ObjectCategories"),),
                    ),
                ),
            ),
            _drive("split_zhou_Caltech101.json", "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
        ),
        Counts(100, 4128, 1649, 2465),
    ),
    "OxfordPets": Recipe(
        (
            _archive("images", f"{_VGG}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            _archive("annotations", f"{_VGG}/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
            _drive("split_zhou_OxfordPets.json", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
        ),
        Counts(37, 2944, 736, 3669),
    ),
    "StanfordCars": Recipe(
        (
            _by_hand("cars_train", "cars_train.tgz", _CARS, md5="065e5b463ae28d29e77c1b4b166cfe61"),
            _by_hand("cars_test", "cars_test.tgz", _CARS, md5="4ce7ebf6a94d07f1952d94dd34c4d501"),
            _by_hand("devkit", "car_devkit.tgz", _CARS, md5="c3b158d763b6e2245038c8ad08e45376"),
            Piece(
                "cars_test_annos_withlabels.mat",
                (
                    Source(
                        "cars_test_annos_withlabels.mat",
                        by_hand=_CARS,
                        md5="b0a2b23655a3edd16d84508592a98d10",
                    ),
                ),
            ),
            _drive("split_zhou_StanfordCars.json", "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
        ),
        Counts(196, 6509, 1635, 8041),
    ),
    "OxfordFlowers": Recipe(
        (
            _archive("jpg", f"{_VGG}/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
            Piece(
                "imagelabels.mat",
                (
                    Source(
                        "imagelabels.mat",
                        url=f"{_VGG}/flowers/102/imagelabels.mat",
                        md5="e0620be6f572b9609742df49c70aed4d",
                    ),
                ),
            ),
            _drive("cat_to_name.json", "1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0"),
            _drive("split_zhou_OxfordFlowers.json", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
        ),
        Counts(102, 4093, 1633, 2463),
    ),
    "Food101": Recipe(
        (
            _archive(
                "images",
                "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "85eeb15f3717b99a5da872d97d918f87",
                inside="food-101",
                to=".",
            ),
            _drive("split_zhou_Food101.json", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
        ),
        Counts(101, 50500, 20200, 30300),
    ),
    "FGVCAircraft": Recipe(
        (
            _archive(
                "images",
                f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                inside="fgvc-aircraft-2013b/data",
                to=".",
            ),
        ),
        Counts(100, 3334, 3333, 3333),
    ),
    "SUN397": Recipe(
        (
            _archive(
                "SUN397",
                "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "8ca2778205c41d23104230ba66911c7a",
            ),
            _archive(
                "ClassName.txt",
                "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
                inside=".",
                to=".",
            ),
            _drive("split_zhou_SUN397.json", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
        ),
        Counts(397, 15880, 3970, 19850),
    ),
    "DescribableTextures": Recipe(
        (
            _archive(
                "images",
                f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
                inside="dtd",
                to=".",
            ),
            _drive("split_zhou_DescribableTextures.json", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
        ),
        Counts(47, 2820, 1128, 1692),
    ),
    "EuroSAT": Recipe(
        (
            Piece(
                "2750",
                (
                    Source(
                        "EuroSAT.zip",
                        url="http://madm.dfki.de/files/sentinel/EuroSAT.zip",
                        md5="c8fa014336c82ac7804f0398fcb19387",
                        moves=(("2750", "2750"),),
                    ),
                    Source(
                        "EuroSAT_RGB.zip",
                        url="https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
                        moves=(("EuroSAT_RGB", "2750"),),
                    ),
                ),
            ),
            _drive("split_zhou_EuroSAT.json", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
        ),
        Counts(10, 13500, 5400, 8100),
    ),
    "UCF101": Recipe(
        (
            Piece(
                "UCF-101-midframes",
                (
                    Source(
                        "UCF-101-midframes.zip",
                        drive_id="10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
                        moves=(("UCF-101-midframes", "UCF-101-midframes"),),
                    ),
                ),
            ),
            _drive("split_zhou_UCF101.json", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
        ),
        Counts(101, 7639, 1898, 3783),
    ),
    "ImageNet": Recipe(
        (
            _CLASSNAMES,
            Piece(
                "images/train",
                (Source(_IMAGENET_ARCHIVES.format("train"), by_hand=_IMAGENET, imagenet="train"),),
            ),
            Piece(
                "images/val",
                (
                    Source(
                        _IMAGENET_ARCHIVES.format("val"),
                        by_hand=_IMAGENET,
                        imagenet="val",
                        companion=_IMAGENET_DEVKIT,
                    ),
                ),
            ),
        ),
        Counts(1000, 1281167, None, 50000),
    ),
    "ImageNetV2": Recipe(
        (
            _CLASSNAMES,
            _archive(
                "imagenetv2-matched-frequency-format-val",
                "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
            ),
        ),
        Counts(1000, None, None, 10000),
    ),
    "ImageNetSketch": Recipe(
        (
            _CLASSNAMES,
            _by_hand(
                "images", "ImageNet-Sketch.zip", "see https://github.com/HaohanWang/ImageNet-Sketch", inside="sketch"
            ),
        ),
        Counts(1000, None, None, 50889),
    ),
    "ImageNetA": Recipe(
        (
            _CLASSNAMES,
            _by_hand("imagenet-a", "imagenet-a.tar", "see https://github.com/hendrycks/natural-adv-examples"),
        ),
        Counts(200, None, None, 7500),
    ),
    "ImageNetR": Recipe(
        (_CLASSNAMES, _by_hand("imagenet-r", "imagenet-r.tar", "see https://github.com/hendrycks/imagenet-r")),
        Counts(200, None, None, 30000),
    ),
}
