"""Learned prompts in a folder of kilobytes, to be shared: an exported folder without graphs, and without paths.

`make_prompt_folder` takes it from an exported folder, `check_prompt_folder` verifies one that came from elsewhere.
`predict.py --model-dir` loads it like an exported folder. Everything in it is data: YAML, JSON and safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip.backbones.open_clip import OpenClipName, is_open_clip
from dassl.engine.run_record import read_classnames, read_config
from dassl.utils import UnreadableFileError, UserError, file_sha256, write_bytes_atomically, write_json
from dassl.utils.files import read_bytes
from deploy.export import fingerprint
from deploy.load import MANIFEST_NAME, PROMPTS_NAME, read_manifest, read_tensors
from trainers.core.record import CLASSNAMES_NAME, CONFIG_NAME, write_record

CARD_NAME = "README.md"
"""Model card of prompts on the Hugging Face Hub: method, settings, data, draw, accuracies and commands."""
DESCRIBED = (PROMPTS_NAME, CONFIG_NAME, CLASSNAMES_NAME)
"""Files whose size and SHA-256 the manifest has."""
MEBIBYTE = 1 << 20
MAX_BYTES = {
    PROMPTS_NAME: 256 * MEBIBYTE,
    CONFIG_NAME: MEBIBYTE,
    CLASSNAMES_NAME: 8 * MEBIBYTE,
    MANIFEST_NAME: 8 * MEBIBYTE,
    CARD_NAME: MEBIBYTE,
}
"""Every file of such a folder with its bound. CoOp with one context for each of 1,000 classes learns 50 MB."""


def make_prompt_folder(exported: Path, folder: Path) -> None:
    """Write everything but the card to `folder`, which is empty.

    Args:
        exported: an exported folder, which is verified first.

    Raises:
        UserError: the exported folder has no learned tensors, or its files are not those that its manifest describes.
    """
    if not (exported / PROMPTS_NAME).is_file():
        raise UserError(f"{exported} has no learned tensors ({PROMPTS_NAME}): there is nothing to share")
    manifest = check_prompt_folder(exported)
    write_bytes_atomically(folder / PROMPTS_NAME, read_bytes(exported / PROMPTS_NAME))
    write_record(folder, without_folders(read_config(exported)), read_classnames(exported))
    manifest["backbone"] = without_folders(manifest.get("backbone", ""))
    tensors = manifest["files"][PROMPTS_NAME].get("tensors", {})
    manifest["files"] = {name: fingerprint(folder / name) for name in DESCRIBED}
    manifest["files"][PROMPTS_NAME]["tensors"] = tensors
    write_json(manifest, folder / MANIFEST_NAME)


def without_folders(value: Any) -> Any:
    """A configuration in which every absolute path is the name of its file or folder alone."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(each) for each in value]
    if not isinstance(value, str):
        return value
    if is_open_clip(value):
        model, _, weights = value.partition("/")
        return f"{model}/{without_folders(weights)}" if OpenClipName.parse(value).weights else value
    return Path(value).name if Path(value).is_absolute() else value


def check_sizes(sizes: Mapping[str, int | None], where: str) -> None:
    """Check that every file is there, with a size within its bound; further files do not matter.

    Args:
        sizes: in bytes, by file name; None: unknown.
        where: the place of the files, for messages.

    Raises:
        UserError: a file is missing or too large.
    """
    missing = [name for name in MAX_BYTES if name not in sizes and name != CARD_NAME]
    if missing:
        raise UserError(f"{where} does not have learned prompts of this project: it lacks {', '.join(missing)}")
    for name, most in MAX_BYTES.items():
        size = sizes.get(name, 0)
        if size is None or size > most:
            shown = "unknown" if size is None else f"{size:,} bytes"
            raise UserError(f"{where}: the size of {name} is {shown}; at most {most:,} bytes are taken")


def check_prompt_folder(folder: Path) -> dict[str, Any]:
    """Verify sizes, SHA-256 and content of the files of a folder; returns its manifest.

    Raises:
        UserError: a file is missing, damaged, or not the one that the manifest describes.
    """
    manifest = read_manifest(folder)
    files = manifest.get("files")
    if manifest.get("format") != 1 or not isinstance(files, dict):
        raise UnreadableFileError(f"{folder / MANIFEST_NAME} is not a manifest of format 1")
    for name in DESCRIBED:
        _check_file(folder / name, files.get(name))
    read_config(folder)
    if read_classnames(folder) != manifest.get("classes"):
        raise UnreadableFileError(f"{folder}: {CLASSNAMES_NAME} and {MANIFEST_NAME} have different class names")
    _check_tensors(folder / PROMPTS_NAME, files[PROMPTS_NAME].get("tensors"))
    return manifest


def _check_file(path: Path, entry: Any) -> None:
    """Check that a file has the size and SHA-256 of its entry in the manifest.

    Raises:
        UnreadableFileError: it does not.
    """
    if not isinstance(entry, dict):
        raise UnreadableFileError(f"{path.parent / MANIFEST_NAME} does not describe {path.name}")
    if path.is_symlink() or not path.is_file():
        raise UnreadableFileError(f"{path} is missing, or not a regular file")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise UnreadableFileError(f"{path} has {size:,} bytes, but {MANIFEST_NAME} says {entry.get('bytes')!r}")
    if file_sha256(path) != entry.get("sha256"):
        raise UnreadableFileError(f"{path} is not the file that {MANIFEST_NAME} describes: its SHA-256 differs")


def _check_tensors(path: Path, described: Any) -> None:
    """Check that a file has the tensors that the manifest describes.

    Raises:
        UnreadableFileError: it does not.
    """
    tensors = read_tensors(path)
    if {name: list(tensor.shape) for name, tensor in tensors.items()} != described:
        raise UnreadableFileError(f"{path}: its tensors are not those that {MANIFEST_NAME} describes")
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise UnreadableFileError(f"{path}: NaN or infinite values in {bad[0]}")
