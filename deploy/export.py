"""A trained classifier in files that do not need this project.

| file | content |
| --- | --- |
| `manifest.json` | class names, image size and normalisation, what each file is, its SHA-256, measured deviations |
| `class_weights.safetensors` | `weights` [C, e], normalised text features; `scale`, the factor of their cosines |
| `image_tower.pt2`, `image_tower.onnx` | images [B, 3, H, W] -> normalised features [B, e], learned prompts inside |
| `image_tower.onnx.data` | weights of the ONNX file, if they exceed 1 GiB |
| `prompts.safetensors` | the learned tensors alone, a few kB |
| `config.yaml`, `classnames.json` | the record, by which `predict.py` reads the folder like a run's |
| `classify.py` | a plain script that classifies with the files above |
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from yacs.config import CfgNode

from dassl.engine.anomalies import EXAMPLES
from dassl.engine.run_record import has_checkpoints
from dassl.utils import UnwritableFileError, UserError, file_sha256, one_line, write_bytes_atomically, write_json
from dassl.utils.locks import locked_while_writing
from dassl.utils.logger import LOG_NAME
from dassl.utils.names import listed
from deploy import graphs as towers
from deploy import standalone_script
from deploy.graphs import ImageTower
from deploy.load import BACKBONE_DIGEST, MANIFEST_NAME, PROMPTS_NAME, TrainedFolder, load_trained
from trainers.core.prompted_clip import PromptedClip
from trainers.core.record import CLASSNAMES_NAME, CONFIG_NAME, backbone_digest, frozen_digest, write_record

STAGING_PREFIX = ".export-"
"""Begins the name of the folder, inside the exported one, in which the files are made."""
WEIGHTS_NAME = "class_weights.safetensors"
"""Normalised text features of the classes, and the factor of their cosines."""
TOWER_NAME = "image_tower.{ending}"
"""The image tower as a graph, with what was learned inside: pt2 and onnx."""
SCRIPT_NAME = "classify.py"
"""Classifies images with the files beside it; needs torch and Pillow alone."""
FORMATS = {
    "pt2": (towers.save_pt2, towers.pt2_deviation),
    "onnx": (towers.save_onnx, towers.onnx_deviation),
}
"""The functions that write a graph and check it, by the ending of its file."""


def export(
    source: TrainedFolder, folder: str | os.PathLike[str], classnames: Sequence[str] | None, formats: Sequence[str]
) -> dict[str, Any]:
    """Write everything that can be exported, in float32, into `folder`; returns the manifest.

    Only one export at a time writes into a folder.

    Raises:
        BusyError: another process is exporting into `folder`.
        UserError: the source cannot be used, a format's package is missing, the folder cannot be written or has a run.
    """
    if "onnx" in formats:
        towers.require_onnx()  # before the work
    folder = Path(folder)
    _check_has_no_run(folder, source)
    with locked_while_writing(folder):
        cfg, model = load_trained(source, classnames, use_cuda=False, precision="fp32")
        if not isinstance(model, PromptedClip):
            raise UserError(f"{cfg.TRAINER.NAME} is not built on this project's prompts: it cannot be exported")
        with staging_folder(folder, STAGING_PREFIX) as staging:
            manifest = _write_export(cfg, model, staging, formats)
            _remove_earlier_export(folder)
            put_in_place(staging.iterdir(), folder)
    return manifest


@contextmanager
def staging_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """A new folder inside `folder`, which is locked, for files in the making; without those that a kill has left.

    Raises:
        UnwritableFileError: it cannot be created.
    """
    for left in folder.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        staging = tempfile.TemporaryDirectory(dir=folder, prefix=prefix)
    except OSError as error:
        raise UnwritableFileError(f"cannot write to {folder}: {error.strerror or error}") from error
    with staging as name:
        yield Path(name)


def put_in_place(files: Iterable[Path], folder: Path) -> None:
    """Move complete files into a folder, the manifest last: if it is there, the folder is complete.

    Raises:
        UnwritableFileError: a file cannot be replaced.
    """
    for path in sorted(files, key=lambda path: (path.name == MANIFEST_NAME, path)):
        try:
            path.replace(folder / path.name)
        except OSError as error:
            raise UnwritableFileError(f"cannot replace {folder / path.name}: {error.strerror or error}") from error


def _check_has_no_run(folder: Path, source: TrainedFolder) -> None:
    """Check that an export does not replace the record of a run.

    Raises:
        UserError: it would.
    """
    if folder.exists() and Path(source.folder).is_dir() and folder.samefile(source.folder):
        raise UserError(f"{folder} is the run itself: export to another folder")
    if has_checkpoints(folder) or (folder / LOG_NAME).is_file():
        raise UserError(f"{folder} has a run, whose record would be replaced: export to another folder")


def _write_export(cfg: CfgNode, model: PromptedClip, folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write every file of an export to an empty folder; returns the manifest."""
    manifest = _description(cfg, model)
    if not model.prompts.text_depends_on_image:
        weights = {"weights": model.text_features(), "scale": model.clip.logit_scale.exp()}
        manifest["files"] |= _write_tensors(folder / WEIGHTS_NAME, weights, {"classes": json.dumps(model.classes)})
    if model.prompts.tensors():
        state = model.learned.module.state_dict()
        manifest["files"] |= _write_tensors(folder / PROMPTS_NAME, state, {"trainer": cfg.TRAINER.NAME})
    manifest["files"] |= _write_towers(ImageTower(model.clip, model.prompts).eval(), folder, formats)
    write_record(folder, cfg, model.classes)
    write_bytes_atomically(folder / SCRIPT_NAME, Path(standalone_script.__file__).read_bytes())
    for name in (CONFIG_NAME, CLASSNAMES_NAME, SCRIPT_NAME):
        manifest["files"][name] = fingerprint(folder / name)
    write_json(manifest, folder / MANIFEST_NAME)  # last: if it exists, the export is complete
    return manifest


def _remove_earlier_export(folder: Path) -> None:
    """Remove the files of an earlier export, which may have had other classes or formats.

    The record is removed too: an export that is killed here must not leave new prompts beside old class names.
    """
    weights_of_onnx = _tower_name("onnx") + towers.ONNX_WEIGHTS_ENDING
    record = CONFIG_NAME, CLASSNAMES_NAME
    for name in (MANIFEST_NAME, *record, WEIGHTS_NAME, PROMPTS_NAME, weights_of_onnx, *map(_tower_name, FORMATS)):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise UnwritableFileError(f"cannot replace {folder / name}: {error.strerror or error}") from error


def _tower_name(ending: str) -> str:
    return TOWER_NAME.format(ending=ending)


def _description(cfg: CfgNode, model: PromptedClip) -> dict[str, Any]:
    """The manifest without its files."""
    given = cfg.INPUT
    normalize = "normalize" in given.TRANSFORMS
    if "instance_norm" in given.TRANSFORMS:
        raise UserError("INPUT.TRANSFORMS has instance_norm, which an exported classifier does not know")
    return {
        "format": 1,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        BACKBONE_DIGEST: frozen_digest(cfg.MODEL.BACKBONE.NAME, backbone_digest(cfg.MODEL.BACKBONE.NAME)),
        "classes": model.classes,
        "class_weights_depend_on_image": model.prompts.text_depends_on_image,
        "image": {
            "size": list(given.SIZE),
            "interpolation": given.INTERPOLATION,
            "mean": list(given.PIXEL_MEAN) if normalize else [0.0, 0.0, 0.0],
            "std": list(given.PIXEL_STD) if normalize else [1.0, 1.0, 1.0],
            "max_pixels": given.MAX_PIXELS,
            "max_aspect_ratio": given.MAX_ASPECT_RATIO,
        },
        "files": {},
    }


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    plain = {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}
    bad = [name for name, tensor in plain.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise UserError(
            f"cannot export {path.name}: NaN or infinite values in {listed(bad, EXAMPLES)}: choose another epoch"
        )
    write_bytes_atomically(path, save(plain, metadata))
    return {path.name: fingerprint(path) | {"tensors": {name: list(t.shape) for name, t in plain.items()}}}


def _write_towers(tower: ImageTower, folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    files: dict[str, Any] = {}
    if not formats:
        return files
    program = towers.trace(tower)
    for ending in formats:
        write, deviation = FORMATS[ending]
        path = folder / _tower_name(ending)
        try:
            write(program, path)
        except UnwritableFileError:
            raise
        except (OSError, RuntimeError) as error:  # torch's archive writer raises RuntimeError if the disk is full
            raise UnwritableFileError(f"cannot write {path}: {one_line(error)}") from error
        files[path.name] = fingerprint(path) | {"largest_deviation": deviation(tower, path)}
        beside = path.with_name(path.name + towers.ONNX_WEIGHTS_ENDING)
        if beside.exists():
            files[beside.name] = fingerprint(beside)
    return files


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as a manifest has them."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
