"""Reading images."""

from __future__ import annotations

import os

from PIL import Image, UnidentifiedImageError

from .errors import MissingFileError, UnreadableFileError

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
"""Other readers of Pillow are rarely used, and one starts a program (Ghostscript, for EPS) on what it is given."""


def read_image(path: str | os.PathLike) -> Image.Image:
    """The image as RGB, pixels as stored (no EXIF rotation).

    Raises MissingFileError or UnreadableFileError, naming the file and what is wrong with it.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode != "RGB":
                return image.convert("RGB")
            image.load()  # convert would do this too, and copy the pixels
            return image
    except FileNotFoundError as error:
        raise MissingFileError(f"no such image: {path}") from error
    except UnidentifiedImageError as error:
        raise UnreadableFileError(f"{path} is not an image that Pillow can read") from error
    except Exception as error:  # Pillow's readers raise what a damaged file makes of them
        raise UnreadableFileError(f"cannot read the image {path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
