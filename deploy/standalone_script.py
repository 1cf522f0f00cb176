"""Classify images with an exported classifier. Needs torch, Pillow to read the images, and nothing else.

python classify.py photo.jpg [more images]      (from wherever; the files beside this script are used)
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parent
Image.MAX_IMAGE_PIXELS = None  # the manifest has a bound of its own
FILTERS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic")}


def load_tensors(path):
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


def load_image(path, height, width, interpolation, mean, std, max_pixels, max_aspect_ratio):
    """Resize the shorter side to the larger size, cut out the centre, normalise: [3, height, width]."""
    if Path(path).exists() and not Path(path).is_file():  # a FIFO or device might never end
        sys.exit(printable(f"error: cannot read {path}: it is not a regular file"))
    try:
        image = Image.open(path)
        if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip it
            sys.exit(printable(f"error: {path} has more than 8 bits: convert it, or use the project's predict.py"))
        if image.width * image.height > max_pixels:
            sys.exit(printable(f"error: {path} has more than {max_pixels} pixels (max_pixels in manifest.json)"))
        if max(image.size) > max_aspect_ratio * min(image.size):
            limit = f"{max_aspect_ratio} times as long as wide (max_aspect_ratio in manifest.json)"
            sys.exit(printable(f"error: {path} is more than {limit}"))
        image = image.convert("RGB")
    except OSError as error:
        sys.exit(printable(f"error: cannot read {path}: {error}"))
    short, long = min(image.size), max(image.size)
    target = max(height, width)
    sizes = {short: target, long: int(target * long / short)}
    image = image.resize((sizes[image.width], sizes[image.height]), FILTERS[interpolation])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
    pixels = pixels.permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def printable(text):
    """The text with control, format and other hidden characters by their number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main(paths):
    if not paths:
        sys.exit("usage: python classify.py photo.jpg [more images]")
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
    settings = manifest["image"]
    height, width = settings["size"]
    bounds = settings["max_pixels"], settings["max_aspect_ratio"]
    for path in paths:
        image = load_image(path, height, width, settings["interpolation"], settings["mean"], settings["std"], *bounds)
        with torch.no_grad():
            features = tower(image[None])  # [1, e]
            probabilities = (head["scale"] * features @ head["weights"].T).softmax(dim=-1)[0]  # [C]
        if not torch.isfinite(probabilities).all():
            sys.exit(printable(f"error: {path}: the logits are NaN or infinite: export another checkpoint"))
        best = probabilities.argmax().item()
        print(f"{printable(path)}\t{printable(manifest['classes'][best])}\t{probabilities[best]:.6f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
