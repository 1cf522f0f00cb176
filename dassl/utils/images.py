"""Reading images."""

from __future__ import annotations

import functools
import os
import stat

from PIL import Image, UnidentifiedImageError

from dassl.image_bounds import MAX_ASPECT_RATIO, MAX_PIXELS

from .errors import MissingFileError, UnreadableFileError, one_line

Image.MAX_IMAGE_PIXELS = None  # `read_image` has its own limit, which a config key can raise

_ANY_SUFFIX = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
"""Formats that are recognised under any file name; the others need their own suffix."""

_NOT_PICTURES = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG", "IPTC"})
"""Formats that Pillow identifies but does not decode by itself: EPS starts a program, the others need a plug-in."""

_READ_AS = {"MPO": "JPEG"}
"""Formats that Pillow reads by the reader of another one."""

_VIA = {"La": "LA", "RGBa": "RGBA"}
"""Modes with premultiplied alpha, which Pillow converts to RGB by way of another mode."""

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_SIXTEEN_BITS = 2**16 - 1


@functools.cache
def _formats_by_suffix() -> dict[str, str]:
    """The Pillow format of each suffix (with its dot, lower case) that Pillow can decode."""
    Image.init()  # registers all plug-ins
    readers = {suffix: _READ_AS.get(name, name) for suffix, name in Image.registered_extensions().items()}
    return {suffix: name for suffix, name in readers.items() if name in Image.OPEN and name not in _NOT_PICTURES}


def image_suffixes() -> tuple[str, ...]:
    """Suffixes of image files that Pillow decodes, in lower case, ascending."""
    return tuple(sorted(_formats_by_suffix()))


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in _formats_by_suffix()


def images_below(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Paths of the images of a folder and its subfolders, and of everything else there; both ascending.

    A hidden folder and a link to a folder are not entered; each counts as one item that is not an image, like a
    hidden file.
    """
    images, others = [], []
    for here, folders, names in os.walk(folder):
        closed = [name for name in folders if name.startswith(".") or os.path.islink(os.path.join(here, name))]
        folders[:] = [name for name in folders if name not in closed]
        for name in names:
            found = images if is_image_name(name) and not name.startswith(".") else others
            found.append(os.path.join(here, name))
        others += [os.path.join(here, name, "") for name in closed]
    return sorted(images), sorted(others)


def read_image(
    path: str | os.PathLike, max_pixels: int = MAX_PIXELS, max_aspect_ratio: int = MAX_ASPECT_RATIO
) -> Image.Image:
    """The image as RGB, pixels as stored (no EXIF rotation; transparency is dropped; the first frame of several).

    8-bit images are converted by Pillow. Wider ones (16 or 32 bits, float) are scaled to 0..255 by `wide_to_rgb`.

    Args:
        max_pixels: a larger image is not decoded, so that no image can exhaust the memory.
        max_aspect_ratio: limit for the ratio of the sides, for the same reason.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it cannot be decoded or is too large.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO or device might never end
            raise UnreadableFileError(f"cannot read the image {path}: it is not a regular file")
        with Image.open(path, formats=_formats_for(path)) as image:
            _check_size(image, path, max_pixels, max_aspect_ratio)
            return to_rgb(image)
    except UnreadableFileError:
        raise
    except FileNotFoundError as error:
        what = "the image is a link to a file that does not exist" if os.path.islink(path) else "no such image"
        raise MissingFileError(f"{what}: {path}") from error
    except UnidentifiedImageError as error:
        raise UnreadableFileError(f"{path} is not an image that Pillow can read") from error
    except Exception as error:  # Pillow's readers raise anything for a damaged file
        raise UnreadableFileError(f"cannot read the image {path}: {one_line(error)}") from error


def _check_size(image: Image.Image, path: str | os.PathLike, max_pixels: int, max_aspect_ratio: int) -> None:
    """Check the size of an image, of which only the header has been read.

    Raises:
        UnreadableFileError: it is too large or too long.
    """
    width, height = image.size
    size = f"{path} has {width:,} x {height:,} pixels"
    if width * height > max_pixels:
        raise UnreadableFileError(
            f"{size}, more than INPUT.MAX_PIXELS {max_pixels:,}; make it smaller, or raise INPUT.MAX_PIXELS"
        )
    if max(image.size) > max_aspect_ratio * min(image.size):
        raise UnreadableFileError(
            f"{size}, more than INPUT.MAX_ASPECT_RATIO {max_aspect_ratio:,} times as long as wide; "
            "crop it, or raise INPUT.MAX_ASPECT_RATIO"
        )


def _formats_for(path: str | os.PathLike) -> tuple[str, ...]:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in (".jpg", ".jpeg", ".png"):  # the usual case does not import all plug-ins
        return _ANY_SUFFIX
    own = _formats_by_suffix().get(suffix)
    return _ANY_SUFFIX if own is None or own in _ANY_SUFFIX else (*_ANY_SUFFIX, own)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB.

    Raises:
        ValueError: see `wide_to_rgb`.
    """
    if image.mode == "RGB":
        image.load()  # `convert` would also copy the pixels
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return wide_to_rgb(image)
    via = _VIA.get(image.mode)
    return (image.convert(via) if via else image).convert("RGB")


def wide_to_rgb(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits as RGB: white is 255, values between are scaled and rounded, none is clipped.

    White is 2**bits - 1 if the file gives its number of bits: 65535 for 16 bits, 4095 for a TIFF of 12 bits. For an
    image of 32-bit integers or of floats, white is the first of 1 (floats only), 255 and 65535 that no pixel
    exceeds.

    Raises:
        ValueError: a value is below 0, above white, or not finite.
    """
    import numpy  # not needed for ordinary images

    values = numpy.asarray(image).astype(numpy.float64)  # [H, W]
    lowest, highest = values.min(), values.max()
    white = _white(image, highest)
    if not (numpy.isfinite(values).all() and lowest >= 0 and highest <= white):
        raise ValueError(
            f"its values ({lowest:g} to {highest:g}, mode {image.mode}) are not between 0 and {white}; "
            "save it with 8 or 16 bits"
        )
    if getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    grey = numpy.floor(values * (255 / white) + 0.5).astype(numpy.uint8)
    return Image.fromarray(grey).convert("RGB")


def _white(image: Image.Image, highest: float) -> int:
    """The value that stands for white."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))[0]
    if image.mode != "F" and bits < 16:
        return 2**bits - 1
    if tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == _SIGNED and bits == 16:
        return 2**15 - 1
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") and image.mode == "I":
        return _SIXTEEN_BITS  # Pillow's PPM reader scales every wide image to 16 bits
    scales = (1, 255, _SIXTEEN_BITS) if image.mode == "F" else (255, _SIXTEEN_BITS)
    return next((white for white in scales if highest <= white), _SIXTEEN_BITS)
