"""Classify images with an exported classifier. Needs torch, Pillow to read the images, and nothing else.

usage: python classify.py PATH [PATH ...]

PATH is an image or a folder, which is searched with its subfolders. Prints a line for each image:
path, class and probability, with tabs between them. The files beside this script are used, from any
working directory. Errors come at the end; the exit status is 1 if an image could not be read.

example: python classify.py photo.jpg holiday/
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def answer_help(words: list[str]) -> None:
    """Print how the script is used, and end it, if that is asked for or no image is given."""
    if not words or "-h" in words or "--help" in words:
        print((__doc__ or "").strip(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)


if __name__ == "__main__":  # before the imports that take seconds
    answer_help(sys.argv[1:])
    if sys.stderr.isatty():
        print("loading PyTorch", file=sys.stderr, flush=True)

import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parent
Image.MAX_IMAGE_PIXELS = None  # the manifest has its own bound
NOT_PICTURES = {"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG", "IPTC"}
"""Formats that Pillow does not decode by itself: EPS starts a program, the others need a plug-in."""
FILTERS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic")}


class ImageError(Exception):
    """An image that cannot be classified."""


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Float32 tensors and metadata of a safetensors file: the header's length in 8 bytes, header in JSON, values."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    metadata, tensors = entries.pop("__metadata__", {}), {}
    for name, entry in entries.items():
        if entry["dtype"] != "F32":
            sys.exit(f"error: {path}: {name} is {entry['dtype']}, not F32")
        first, end = entry["data_offsets"]
        values = torch.frombuffer(bytearray(content[start + first : start + end]), dtype=torch.float32)
        tensors[name] = values.view(entry["shape"])
    return tensors, metadata


def picture_formats() -> list[str]:
    """The formats in which a file may be, whatever its name says."""
    Image.init()  # registers all formats
    return [name for name in Image.OPEN if name not in NOT_PICTURES]


def find_images(places: list[str]) -> list[str]:
    """Images as they are given, and those of folders in ascending order; hidden files and folders are left out."""
    formats = {*picture_formats(), "MPO"}  # MPO is read as JPEG
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    found: list[str] = []
    for place in places:
        if not Path(place).is_dir():
            found.append(place)
            continue
        files = [
            path
            for path in sorted(Path(place).rglob("*"), key=str)
            if path.suffix.lower() in suffixes and path.is_file()
        ]
        inside = [path for path in files if not any(part.startswith(".") for part in path.relative_to(place).parts)]
        if not inside:
            sys.exit(printable(f"error: no image in the folder {place}"))
        found += map(str, inside)
    return found


def load_image(path: str | Path, settings: dict) -> torch.Tensor:
    """Resize the shorter side to the larger size, cut out the centre, normalise.

    Args:
        path: the file.
        settings: `image` in the manifest.

    Returns:
        [3, height, width]

    Raises:
        ImageError: not a readable image, or one outside the limits.
    """
    (height, width), max_aspect_ratio = settings["size"], settings["max_aspect_ratio"]
    if Path(path).exists() and not Path(path).is_file():  # a FIFO or device might never end
        raise ImageError(f"cannot read {path}: it is not a regular file")
    try:
        image = Image.open(path, formats=picture_formats())
        if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip it
            raise ImageError(f"{path} has more than 8 bits: convert it, or use the project's predict.py")
        if image.width * image.height > settings["max_pixels"]:
            raise ImageError(f"{path} has more than {settings['max_pixels']} pixels (max_pixels in manifest.json)")
        if max(image.size) > max_aspect_ratio * min(image.size):
            limit = f"{max_aspect_ratio} times as long as wide (max_aspect_ratio in manifest.json)"
            raise ImageError(f"{path} is more than {limit}")
        image = image.convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise anything for a damaged file
        raise ImageError(f"cannot read {path}: {error}") from error
    short, long = min(image.size), max(image.size)
    target = max(height, width)
    sizes = {short: target, long: int(target * long / short)}
    image = image.resize((sizes[image.width], sizes[image.height]), FILTERS[settings["interpolation"]])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
    pixels = pixels.permute(2, 0, 1) / 255
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))  # [3, 1, 1] each
    return (pixels - mean) / std


def printable(text: str) -> str:
    """The text with hidden characters, such as control characters, replaced by their numbers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main(words: list[str]) -> None:
    """Classify the images that the command line names."""
    answer_help(words)
    unknown = [word for word in words if word.startswith("-") and not Path(word).exists()]
    if unknown:
        sys.exit(printable(f"error: unknown flag {unknown[0]}: classify.py takes images and folders (--help)"))
    paths = find_images(words)
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    if manifest["class_weights_depend_on_image"]:
        sys.exit(f"error: {manifest['trainer']} makes class weights for each image: use the project's predict.py")
    if "image_tower.pt2" not in manifest["files"]:
        sys.exit("error: no image_tower.pt2 was exported here: export again with --formats pt2")
    for name in ("class_weights.safetensors", "image_tower.pt2"):
        with open(FOLDER / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["files"][name]["sha256"]:
                sys.exit(f"error: {FOLDER / name} is damaged: its SHA-256 is not the one in manifest.json")
    head, metadata = load_tensors(FOLDER / "class_weights.safetensors")  # weights [C, e], scale []
    if json.loads(metadata["classes"]) != manifest["classes"]:
        sys.exit("error: the class names in manifest.json are not those of the class weights: export again")
    tower = torch.export.load(FOLDER / "image_tower.pt2").module()
    errors: list[str] = []
    for path in paths:
        try:
            image = load_image(path, manifest["image"])
        except ImageError as error:
            errors.append(printable(f"error: {error}"))
            continue
        with torch.no_grad():
            features = tower(image[None])  # [1, e]
            probabilities = (head["scale"] * features @ head["weights"].T).softmax(dim=-1)[0]  # [C]
        if not torch.isfinite(probabilities).all():
            sys.exit(printable(f"error: {path}: the logits are NaN or infinite: export another checkpoint"))
        best = int(probabilities.argmax())
        print(f"{printable(path)}\t{printable(manifest['classes'][best])}\t{probabilities[best]:.6f}")
    if errors:
        sys.exit("\n".join([*errors, f"error: {len(errors)} of {len(paths)} images could not be read"]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
