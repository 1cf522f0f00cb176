"""Thousands of damaged and hostile inputs: each ends in a right result or in one clear line.

None ends in a stack trace, a hang, a large allocation, a started program, or a write outside the output folder
(see `mutations.Guard`). Each kind of input is mutated a few hundred times with a fixed seed; FUZZ_CASES=3000 in the
environment makes it that many, FUZZ_SEED another seed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import random
import shutil
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden_data import write_backbones
from mutations import VALUES, WORDS, Guard, mutate_bytes, mutate_json
from PIL import Image
from safetensors.torch import save_file
from tensor_modules import trace
from tiny_runs import CLASSNAMES, make_cfg, write_data
from torch import nn

import train
from clip.backbones import checkpoint as weights
from dassl.config import get_cfg_default, merge_file, merge_opts
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.engine.history import EpochHistory
from dassl.utils import UserError, load_checkpoint, printable_lines, read_image, resume_from_checkpoint
from dassl.utils.archives import unpack_archive
from datasets.custom_csv import ImageCSV
from datasets.layout.custom_data import read_names
from datasets.layout.draws import read_draw
from datasets.layout.splits import check_labels, read_split
from experiments import report
from experiments.report import command

CASES = int(os.environ.get("FUZZ_CASES", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


@pytest.fixture
def guard(tmp_path, request, record_property):
    platform.platform()  # starts the program `uname` when it is first called, which the guard would take for a fault
    guard = Guard(tmp_path)
    yield guard
    guard.check()
    record_property("fuzz", f"{guard.right} right, {guard.refused} refused")
    print(f"{request.node.name}: {guard.total} cases, {guard.right} right, {guard.refused} refused")


def cases(kind, count=CASES):
    """Names of the cases of a kind, and a generator for each."""
    for number in range(count):
        name = f"{kind} {SEED}:{number}"
        yield name, random.Random(name)


def full_cfg():
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    return cfg


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else [(f"{prefix}{key}", value)]


def same_kinds(cfg, reference):
    """Every value has the type of its default, lists and tuples being alike."""
    alike = {list: tuple}
    kinds = {key: alike.get(type(value), type(value)) for key, value in leaves(reference)}
    for key, value in leaves(cfg):
        assert alike.get(type(value), type(value)) is kinds[key] or reference_is_none(reference, key), key
    return True


def reference_is_none(reference, key):
    return dict(leaves(reference))[key] is None


# ---------------------------------------------------------------- configuration


def test_config_overrides(guard):
    reference = full_cfg()
    keys = [key for key, _ in leaves(reference)]

    def merge(rng):
        cfg = full_cfg()
        options = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            key = rng.choice(keys)
            if rng.random() < 0.3:
                key = mutate_bytes(key.encode(), rng).decode("utf-8", "surrogateescape")
            value = rng.choice(WORDS) if rng.random() < 0.5 else repr(rng.choice(VALUES))
            options += [key, value]
        merge_opts(cfg, options[: -1 if rng.random() < 0.05 else None])
        return same_kinds(cfg, reference)

    for name, rng in cases("options"):
        guard.case(name, lambda rng=rng: merge(rng))


def test_config_files(guard, tmp_path):
    reference = full_cfg()
    tree = {"OPTIM": {"LR": 0.002, "STEPSIZE": [3, 5]}, "INPUT": {"SIZE": [32, 32], "TRANSFORMS": ["normalize"]},
            "DATALOADER": {"TRAIN_X": {"BATCH_SIZE": 4}}, "TRAINER": {"COOP": {"CTX_INIT": "a photo"}}}  # fmt: skip
    path = tmp_path / "settings.yaml"

    def merge():
        cfg = full_cfg()
        merge_file(cfg, str(path))
        return same_kinds(cfg, reference)

    for name, rng in cases("yaml"):
        content = mutate_json(tree, rng) if rng.random() < 0.5 else tree
        text = yaml.safe_dump(content).encode("utf-8", "surrogatepass")
        path.write_bytes(mutate_bytes(text, rng) if content is tree else text)
        guard.case(name, merge)


# ---------------------------------------------------------------- data sets


@pytest.fixture
def split(tmp_path):
    write_data(tmp_path)
    return json.loads((tmp_path / "eurosat" / "split_zhou_EuroSAT.json").read_text())


def mutated_json_file(path, content, rng):
    """Write a mutation of the content's structure, or of its text."""
    if rng.random() < 0.6:
        data = json.dumps(mutate_json(content, rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    else:
        data = mutate_bytes(json.dumps(content).encode(), rng)
    path.write_bytes(data)


def test_split_files(guard, split, tmp_path):
    path, images = tmp_path / "split.json", str(tmp_path / "eurosat" / "2750")
    few = {part: [row for row in rows if row[1] < 2] for part, rows in split.items()}

    def read():
        parts = read_split(str(path), images)
        check_labels(parts, str(path))
        for item in (item for part in parts for item in part):
            assert os.path.realpath(item.impath).startswith(images + os.sep) and os.path.isfile(item.impath)
            f"{item.classname} {item.impath}".encode()  # can be printed
        return True

    for name, rng in cases("split"):
        mutated_json_file(path, few, rng)
        guard.case(name, read)


def test_draw_files(guard, split, tmp_path):
    path, folder = tmp_path / "draw.json", str(tmp_path / "eurosat" / "2750")
    (tmp_path / "split.json").write_text(json.dumps(split))
    parts = read_split(str(tmp_path / "split.json"), folder)
    sources = {"train": parts.train, "val": parts.val}
    draw = {"dataset": "EuroSAT", "num_shots": 1, "seed": 1, "train": split["train"][::4], "val": split["val"]}

    def read():
        drawn = read_draw(str(path), "EuroSAT", 1, sources, folder)
        assert all(any(item is known for known in sources[part]) for part, items in drawn.items() for item in items)
        return True

    for name, rng in cases("draw"):
        mutated_json_file(path, draw, rng)
        guard.case(name, read)


def test_class_name_files(guard, tmp_path):
    path, keys = tmp_path / "classnames.txt", [f"n{number:08}" for number in range(6)]
    text = "".join(f"{key} {name}\n" for key, name in zip(keys, CLASSNAMES, strict=False)).encode()

    def read():
        names = read_names(str(path), keys)
        assert sorted(names) == keys and all(name.strip() == name != "" for name in names.values())
        return True

    for name, rng in cases("classnames"):
        path.write_bytes(mutate_bytes(text, rng))
        guard.case(name, read)


def test_csv_files(guard, split, tmp_path):
    path, cfg = tmp_path / "images.csv", full_cfg()
    cfg.DATASET.PATH, cfg.OUTPUT_DIR = str(path), str(tmp_path / "out")
    buffer = io.StringIO()
    csv.writer(buffer).writerows(
        [["path", "label", "split"]]
        + [[f"eurosat/2750/{row[0]}", row[2], part] for part, rows in split.items() for row in rows if row[1] < 2]
    )

    for name, rng in cases("csv"):
        path.write_bytes(mutate_bytes(buffer.getvalue().encode(), rng))
        guard.case(name, lambda: ImageCSV(cfg))


FORMATS = {"JPEG": {}, "PNG": {}, "GIF": {}, "WEBP": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}}


def test_images(guard, tmp_path):
    path = tmp_path / "image"
    pixels = np.random.default_rng(0).integers(0, 255, (21, 16, 3), dtype=np.uint8)
    whole = {}
    for kind, options in FORMATS.items():
        for mode in ("RGB", "L"):
            buffer = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
            whole[kind, mode] = buffer.getvalue()
    sources = list(whole.values())

    def read():
        image = read_image(path)
        assert image.mode == "RGB" and image.width > 0 and len(image.tobytes()) == 3 * image.width * image.height
        return True

    for name, rng in cases("image", 2 * CASES):
        path.write_bytes(mutate_bytes(rng.choice(sources), rng))
        guard.case(name, read)


def test_archives(guard, tmp_path):
    sources = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name in ("a/one.txt", "a/../two.txt", "three.txt"):
                archive.writestr(name, "content " * 9)
        sources.append(buffer.getvalue())
    for compression in ("", "gz", "bz2", "xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
            for name in ("a/one.txt", "../two.txt" if compression == "gz" else "a/two.txt"):
                entry = tarfile.TarInfo(name)
                entry.size = 72
                archive.addfile(entry, io.BytesIO(b"content " * 9))
        sources.append(buffer.getvalue())
    path = tmp_path / "archive"
    (tmp_path / "unpacked").mkdir()
    guard.folder = str(tmp_path / "unpacked")
    for name, rng in cases("archive"):
        path.write_bytes(mutate_bytes(rng.choice(sources), rng))
        guard.case(name, lambda: unpack_archive(str(path), str(tmp_path / "unpacked")))


# ---------------------------------------------------------------- results


RESULT = {
    "schema": 1, "finished": True, "setting": "base2new", "part": "train_base", "trainer": "CoOp", "config": "mine",
    "dataset": "ImageFolder", "dataset_config": "folder", "subsample_classes": "base", "shots": 16, "seed": 1,
    "backbone": "ViT-B/16", "results": {"accuracy": 80.5}, "per_class": {"cat": 12.5}, "device": "cpu",
    "history": [{"epoch": 1, "loss": 0.5, "acc": 50.0}], "train_seconds": 12.5, "test_seconds": 1.5,
    "peak_memory_bytes": 3145728, "few_shot_sha256": "ab", "weights_sha256": "cd", "files_sha256": {"A": "ef"},
    "versions": {"torch": "2.11.0"},
    "full_config": {"SEED": 1, "DATASET": {"PATH": "my_images"}, "OPTIM": {"LR": 0.5}}, "git_commit": "a84f3c1d9e",
    "git_dirty": False, "date": "2026-01-02T03:04:05Z",
}  # fmt: skip


def test_result_and_plan_files(guard, tmp_path):
    """A report shows a sound result beside a mutated one and a mutated plan, in every format but the page."""
    output = tmp_path / "output"
    for name in ("sound", "mutated"):
        (output / name).mkdir(parents=True)
    sound = RESULT | {"trainer": "VPT", "results": {"accuracy": 43.25}}
    (output / "sound" / "result.json").write_text(json.dumps(sound))

    def show():
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = report.main([str(output), "--no-figures", "--to", str(tmp_path / "report")])
        assert "43.25" in out.getvalue() and (status == 1) == bool(err.getvalue())
        printed = [out.getvalue(), err.getvalue()]
        printed += [(tmp_path / "report" / f"report.{kind}").read_text() for kind in ("md", "tex", "csv")]
        assert all(printable_lines(text) == text for text in printed)
        if status:
            raise UserError(err.getvalue().splitlines()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "html_page", lambda *_: "")
        for name, rng in cases("result", CASES // 4):
            mutated_json_file(output / "mutated" / "result.json", RESULT, rng)
            guard.case(name, show)
        (output / "mutated" / "result.json").write_text(json.dumps(RESULT))
        for name, rng in cases("plan", CASES // 4):
            mutated_json_file(output / "plan.json", {"folders": ["sound", "a/b", "mutated"]}, rng)
            guard.case(name, show)


def test_report_pages(guard, tmp_path):
    """The page with its drawings, of two results of which one is mutated."""
    output = tmp_path / "output"
    for name in ("sound", "mutated"):
        (output / name).mkdir(parents=True)
        (output / name / "result.json").write_text(json.dumps(RESULT | {"trainer": name}))

    def show():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            status = report.main([str(output), "--no-figures", "--to", str(tmp_path / "report")])
        text = (tmp_path / "report" / "report.html").read_text()
        assert printable_lines(text) == text and "80.50" in text
        if status:
            raise UserError(err.getvalue().splitlines()[0])

    for name, rng in cases("page", CASES // 10):
        mutated_json_file(output / "mutated" / "result.json", RESULT, rng)
        guard.case(name, show)


def test_training_curves(guard, tmp_path):
    lines = "".join(json.dumps({"epoch": epoch, "loss": 0.5, "seconds": 1.5}) + "\n" for epoch in range(1, 4)).encode()

    def resume():
        history = EpochHistory(tmp_path)
        history.resume(3, tmp_path)
        history.add(4, loss=0.25, seconds=1.0)
        assert history.seconds is not None and all(type(line["epoch"]) is int for line in history.epochs)
        return True

    for name, rng in cases("curve"):
        (tmp_path / "history.jsonl").write_bytes(mutate_bytes(lines, rng))
        guard.case(name, resume)


# ---------------------------------------------------------------- checkpoints and backbones


def checkpoint_of(model, optimizer):
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": model.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict(), "val_result": 50.0}
    return state | {"scheduler": schedule.state_dict()}


def test_checkpoint_files(guard, tmp_path):
    """PyTorch's archive, its older format, one with Python objects in it; then what is read goes into a model."""
    model = nn.Linear(3, 2)
    content = checkpoint_of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    schedule = content["scheduler"]
    sources = []
    for more, options in (({}, {}), ({}, {"_use_new_zipfile_serialization": False}), ({"odd": Odd()}, {})):
        buffer = io.BytesIO()
        torch.save({**content, "scheduler": {**schedule, **more}}, buffer, **options)
        sources.append(buffer.getvalue())
    path = tmp_path / "model.pth.tar-3"
    (tmp_path / "checkpoint").write_text("model.pth.tar-3\n")

    def resume():
        target = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(target.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        assert isinstance(load_checkpoint(path), dict)
        epoch = resume_from_checkpoint(str(tmp_path), target, optimizer, scheduler)
        assert isinstance(epoch, int) and epoch >= 0
        target(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return True

    for name, rng in cases("checkpoint"):
        path.write_bytes(mutate_bytes(rng.choice(sources), rng))
        guard.case(name, resume)


class Odd:
    """A Python object in a checkpoint."""

    def __init__(self):
        self.values = OrderedDict(a=1)


def test_checkpoint_contents(guard, tmp_path):
    """Well-formed files whose values are of the wrong kind or size."""
    model = nn.Linear(3, 2)
    content = checkpoint_of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    path = tmp_path / "model.pth.tar-3"
    (tmp_path / "checkpoint").write_text("model.pth.tar-3\n")

    def resume():
        target = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(target.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        resume_from_checkpoint(str(tmp_path), target, optimizer, scheduler)
        target(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
        return True

    for name, rng in cases("content"):
        torch.save(mutate_tree(content, rng), path)
        guard.case(name, resume)


def mutate_tree(content, rng):
    """One value in nested dictionaries and lists replaced or removed; tensors by tensors of another kind, too."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    content = torch.load(buffer, weights_only=True)
    holder = content
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = rng.choice(list(keys))
        inner = holder[key]
        if isinstance(inner, (dict, list)) and len(inner) and rng.random() < 0.8:
            holder = inner
            continue
        tensors = [torch.zeros(0), torch.zeros(2, 2), torch.tensor(1), torch.zeros(2, 3, dtype=torch.complex64)]
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice([*VALUES, *tensors])
        return content


def test_backbone_files(guard, tmp_path, tmp_path_factory):
    """safetensors and state dicts; small models, so that the heads of the files are often hit."""
    state = weights.read_state_dict(write_backbones(tmp_path_factory.mktemp("backbone"))["vit"])
    small = {name: tensor[..., :2].clone() if tensor.numel() > 200 else tensor for name, tensor in state.items()}
    save_file(small, tmp_path / "small.safetensors")
    torch.save(small, tmp_path / "small.pt")
    trace({name: tensor for name, tensor in small.items() if "." not in name}).save(str(tmp_path / "script.pt"))

    def read(path):
        found = weights.read_state_dict(path)
        assert all(isinstance(value, torch.Tensor) for value in found.values())
        return True

    for name, rng in cases("backbone"):
        source = rng.choice(["small.safetensors", "small.pt", "script.pt"])
        path = tmp_path / f"mutated{Path(source).suffix}"
        if source.endswith(".pt") and rng.random() < 0.5:  # with right checksums, so that the content is looked at
            write_mutated_zip(tmp_path / source, path, rng)
        else:
            data = (tmp_path / source).read_bytes()
            head = mutate_bytes(data[:3000], rng)
            path.write_bytes(head + data[3000:] if rng.random() < 0.7 else mutate_bytes(data, rng))
        guard.case(name, lambda path=path: read(path))


def write_mutated_zip(source, target, rng):
    """A copy of an archive with one entry's content mutated."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        names = [name for name in archive.namelist() if name.endswith((".pkl", ".py"))]
        chosen = rng.choice([*names, rng.choice(archive.namelist())])
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, mutate_bytes(content, rng) if name == chosen else content)


def test_backbone_tensors(guard, tmp_path_factory):
    """State dicts that lack tensors, or hold mis-shaped ones."""
    state = weights.read_state_dict(write_backbones(tmp_path_factory.mktemp("backbone"))["vit"])
    guard.case("whole", lambda: weights.clip_from_state_dict(dict(state)))

    def mutated(rng):
        found = dict(state)
        for name in rng.sample(sorted(found), rng.choice((1, 2))):
            tensor = found.pop(name)
            match rng.randrange(5):
                case 0:
                    found[name] = tensor[..., : rng.randrange(3)] if tensor.dim() else tensor[None]
                case 1:
                    found[name] = tensor.flatten()
                case 2:
                    found[name.replace("0", "99999")] = tensor
                case 3:
                    found[name] = torch.zeros(())
        return found

    for name, rng in cases("tensors", CASES // 6):
        guard.case(name, lambda rng=rng: weights.clip_from_state_dict(mutated(rng)))


# ---------------------------------------------------------------- whole runs


SLOW = {"OPTIM.MAX_EPOCH", "DATALOADER.NUM_WORKERS"}  # a large number is a wish, not an error
ELSEWHERE = {"OUTPUT_DIR", "DATASET.ROOT"}  # folders of the user's choice


def test_whole_runs(guard, tmp_path, tmp_path_factory, monkeypatch):
    """One setting of a run of one epoch becomes another value of its type: the run ends well, or says what is wrong."""
    write_data(tmp_path / "data")
    backbone = write_backbones(tmp_path_factory.mktemp("backbone"))["vit"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # made when PyTorch's optimisers are imported
    monkeypatch.chdir(tmp_path)
    methods = {"CoOp": ["COOP"], "ProMetaR": ["PROMETAR"], "MaPLe": ["MAPLE"]}
    others = {node for node in full_cfg().TRAINER if node != "NAME"}

    def run(rng):
        method = rng.choice(list(methods))
        ignored = tuple(f"TRAINER.{node}." for node in others - set(methods[method]))
        cfg = make_cfg(method, backbone, tmp_path / "data", tmp_path / "out" / str(rng.random()))
        cfg.OPTIM.MAX_EPOCH, cfg.DATASET.NUM_SHOTS = 1, 1
        if rng.random() < 0.3:
            cfg.INPUT.TRANSFORMS = tuple(rng.sample(AVAI_CHOICES, 6))
        keys = [key for key, _ in leaves(cfg) if not key.startswith(ignored) and key not in SLOW | ELSEWHERE]
        of_transforms = [key for key in keys if key.startswith("INPUT.")]
        key = rng.choice(keys if len(cfg.INPUT.TRANSFORMS) == 1 else of_transforms)
        merge_opts(cfg, [key, rng.choice(unusual(dict(leaves(cfg))[key], rng))])
        cfg.freeze()
        train.build_trainer(cfg).train()
        return True

    for name, rng in cases("run", CASES // 10):
        guard.case(name, lambda rng=rng: run(rng))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def unusual(value, rng):
    """Values of the same type, at or beyond the edge of what makes sense."""
    match value:
        case bool():
            return [not value]
        case int():
            return [-1, 0, 1, 2, 3, 5, 1000, -(10**12), 2**31, 10**30]
        case float():
            return [-1.0, 0.0, 1e-300, 0.5, 1.0, 1e30, float("nan"), float("inf"), 7]
        case str():
            return ["", "x", "../x", "a photo of a", "adam", "/nowhere", "\x00", "\ud800", "é" * 300, "val", "test"]
    pools = [[], [0], [-1], [1], [2, 3], [1.0, 0.1], ["x"], ["normalize"], [None], [[1]], [float("nan")], [10**12, 1]]
    return [tuple(pool) for pool in pools] + [tuple(rng.sample(list(value), len(value)))]
