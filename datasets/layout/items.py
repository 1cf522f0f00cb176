"""One image of a data set."""

from __future__ import annotations

from dassl.data.datasets import Datum


class Item(Datum):
    """A `Datum` that does not check that its file exists.

    The readers list each folder once (`files.require_images`): 1.3 million single checks for ImageNet would take
    minutes on a network file system.
    """

    def __init__(self, impath: str, label: int, classname: str) -> None:
        self._impath = impath
        self._label = label
        self._domain = 0
        self._classname = classname
