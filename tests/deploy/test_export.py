"""export.py: what it writes computes what the run computes, also in a script that has only torch.

Expected values: the trainer that wrote the run folder, asked directly.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forked import run_forked
from full_disk import disk_full_after
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import CLASSNAMES, NODES
from trained_runs import Runs

import export
from dassl.utils import MAX_ASPECT_RATIO, MAX_PIXELS, UserError
from deploy import export as package
from deploy import graphs as tower
from deploy import load_classifier, standalone_script
from deploy.images import find_images
from trainers.core.prompts import Prompts, normalised

ROOT = Path(export.__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def export_run(trainer, output, *arguments):
    """Runs export.py in this process; returns the manifest."""
    export.main(export.parse_args(["--model-dir", str(trainer.output_dir), "--output-dir", str(output), *arguments]))
    return json.loads((output / "manifest.json").read_text())


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """A trainer with prompts in both towers, its exported folder (both graphs) and the manifest."""
    output = tmp_path_factory.mktemp("exported")
    return runs("MaPLe"), output, export_run(runs("MaPLe"), output)


@torch.no_grad()
def features_and_images(trainer, count):
    images = torch.stack([trainer.test_loader.dataset[i]["img"] for i in range(count)])
    return normalised(trainer.prompts.image_features(trainer.prompts.tensors(), images)), images


def test_torch_export(exported):
    trainer, output, _ = exported
    loaded = torch.export.load(output / "image_tower.pt2").module()
    for count in (1, 4):
        expected, images = features_and_images(trainer, count)
        assert (loaded(images) - expected).abs().max() < 1e-5


def test_onnx(exported):
    import onnxruntime

    trainer, output, _ = exported
    session = onnxruntime.InferenceSession(str(output / "image_tower.onnx"), providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_inputs()] == [["batch", 3, 64, 64]]
    for count in (1, 4):
        expected, images = features_and_images(trainer, count)
        (found,) = session.run(None, {"images": images.numpy()})
        assert (torch.from_numpy(found) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in NODES if name != "CoCoOp"])
def test_the_tower_of_every_method_gives_its_features(runs, name):
    """What is traced, before it is written; the learned tensors are far from their start."""
    trainer = runs(name, **{"OPTIM.LR": 0.03})
    prompts, (_, images) = trainer.prompts, features_and_images(trainer, 3)
    theta = {key: tensor + 0.05 for key, tensor in trainer.theta().items()}
    with torch.no_grad():
        for key, tensor in prompts.tensors().items():
            tensor.copy_(theta[key])
        expected = normalised(prompts.image_features(theta, images))
        found = tower.ImageTower(prompts.clip, prompts).eval()(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        changed = (expected - normalised(prompts.clip.encode_image(images))).abs().max()
    assert (changed > 1e-4) == (name not in {"CoOp", "KgCoOp", "ProGrad", "TCP", "LinearProbe"})  # text side only


@pytest.mark.parametrize("name", ["MultiModalAdapter", "CoPrompt", "CLIPLoRA"])
def test_graphs_of_adapted_towers(name, runs, tmp_path):
    """torch.export's file and the ONNX file, for other numbers of images than the tower was traced with."""
    import onnxruntime

    trainer = runs(name, **{"OPTIM.LR": 0.5})
    export_run(trainer, tmp_path / "out")
    loaded = torch.export.load(tmp_path / "out" / "image_tower.pt2").module()
    onnx = str(tmp_path / "out" / "image_tower.onnx")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for count in (1, 4):
        expected, images = features_and_images(trainer, count)
        with torch.no_grad():
            assert (expected - normalised(trainer.prompts.clip.encode_image(images))).abs().max() > 1e-4
            assert (loaded(images) - expected).abs().max() < 1e-5
        (found,) = session.run(None, {"images": images.numpy()})
        assert (torch.from_numpy(found) - expected).abs().max() < 1e-5


def test_a_linear_probe_and_its_classes(runs, tmp_path, capsys):
    """A name that was not trained on gets its zero-shot feature, in the exported folder and in a prediction from it."""
    trainer, names = runs("LinearProbe"), tmp_path / "names.txt"
    names.write_text("\n".join([*CLASSNAMES[::-1], "a river"]))
    export_run(trainer, tmp_path / "out", "--classes", str(names), "--formats")
    assert "7 of 8 classes have learned weights; the other 1 keep their zero-shot" in capsys.readouterr().out
    weights = load_file(tmp_path / "out" / "class_weights.safetensors")["weights"]
    learned = normalised(trainer.theta()["classifier.weight"])
    torch.testing.assert_close(weights[:7].flip(0), learned, rtol=0, atol=1e-6)
    _, images = features_and_images(trainer, 3)
    again = load_classifier(tmp_path / "out", classnames=CLASSNAMES)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(images), trainer.model_inference(images), rtol=0, atol=1e-4)


@torch.no_grad()
def test_class_weights_and_tower_give_the_logits(exported):
    trainer, output, _ = exported
    features, images = features_and_images(trainer, 4)
    head = load_file(output / "class_weights.safetensors")
    assert head["weights"].norm(dim=1).tolist() == pytest.approx([1.0] * len(CLASSNAMES))
    found = head["scale"] * features @ head["weights"].T
    assert (found - trainer.model_inference(images)).abs().max() < 1e-3  # logits are about 100 times a cosine


def test_the_plain_script(exported, runs, tmp_path, monkeypatch, capsys):
    """Run from elsewhere; probabilities as predict's."""
    trainer, output, _ = exported
    images = [str(runs.images / f"c{label}" / "test_0.jpg") for label in (0, 3)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["classify.py", *images])
    capsys.readouterr()
    runpy.run_path(str(output / "classify.py"), run_name="__main__")
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for row, expected in zip(rows, load_classifier(trainer.output_dir).predict(images), strict=True):
        assert row[:2] == [expected.image, expected.classes[0]]
        assert float(row[2]) == pytest.approx(expected.probabilities[0], abs=1e-4)


def test_the_plain_script_needs_torch_and_what_reads_its_files(exported):
    tree = ast.parse((exported[1] / "classify.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"__future__", "hashlib", "json", "sys", "pathlib", "torch", "PIL"}


def test_the_plain_script_prepares_images_as_the_trainers_do(runs, tmp_path):
    """Upright, lying, small and large images; torchvision's transform is the reference."""
    import numpy as np
    from PIL import Image

    from deploy.standalone_script import load_image

    classifier = load_classifier(runs("CoOp").output_dir)
    given = classifier.cfg.INPUT
    settings = {"size": given.SIZE, "interpolation": given.INTERPOLATION, "max_pixels": 10**6}
    settings |= {"mean": given.PIXEL_MEAN, "std": given.PIXEL_STD, "max_aspect_ratio": 200}
    pixels = np.random.default_rng(0).integers(0, 255, (301, 301, 3), dtype=np.uint8)
    for width, height in ((301, 200), (97, 143), (64, 64), (40, 33), (65, 64)):
        path = tmp_path / f"{width}x{height}.png"
        Image.fromarray(pixels[:height, :width]).save(path)
        found = load_image(path, settings)
        assert (found - classifier.transform(Image.open(path))).abs().max() < 1e-5


SCRIPT_SETTINGS = dict(
    size=[64, 64], interpolation="bicubic", mean=[0.0] * 3, std=[1.0] * 3, max_pixels=999, max_aspect_ratio=299
)
"""`image` in a manifest."""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("16 bits", "has more than 8 bits"),
        ("float", "has more than 8 bits"),
        ("long", "299 times as long as wide .max_aspect_ratio in manifest.json"),
        ("large", "more than 999 pixels .max_pixels in manifest.json"),
        ("FIFO", "regular"),
    ],
)
def test_the_plain_script_refuses_what_it_would_clip_or_never_finish(tmp_path, kind, says):
    import numpy as np
    from PIL import Image

    from deploy.standalone_script import ImageError, load_image

    path = tmp_path / "odd.tif"
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        shape, dtype = {
            "16 bits": ((9, 9), "uint16"),
            "float": ((9, 9), "float32"),
            "long": ((300, 1), "uint8"),
            "large": ((25, 40), "uint8"),
        }[kind]
        Image.fromarray(np.full(shape, 100, dtype)).save(path)
    with pytest.raises(ImageError, match=f"odd.tif.*{says}"):
        load_image(path, SCRIPT_SETTINGS)


@pytest.mark.parametrize("name", ["eps.jpg", "cut.dds"])
def test_the_plain_script_runs_no_program_and_names_every_damage(tmp_path, name, monkeypatch):
    """Pillow would give a file that starts as EPS to Ghostscript, and raises ValueError for a cut DDS file."""
    from PIL import EpsImagePlugin, Image

    path, whole = tmp_path / name, tmp_path / "whole.dds"
    Image.new("RGB", (9, 9)).save(whole)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    path.write_bytes(postscript if name == "eps.jpg" else whole.read_bytes()[:-9])
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: pytest.fail("Ghostscript was started"))
    with pytest.raises(standalone_script.ImageError, match=f"cannot read .*{name}"):
        standalone_script.load_image(path, SCRIPT_SETTINGS)


def test_the_plain_script_finds_the_images_that_predict_finds(runs, tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "x.eps", "m.mpo", ".hidden.png", "sub/c.webp", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = standalone_script.find_images([str(tmp_path), "photo.jpg"])
    assert found == [*find_images([tmp_path]), "photo.jpg"]
    assert [Path(path).name for path in found] == ["a.png", "b.JPG", "m.mpo", "c.webp", "photo.jpg"]


def test_the_plain_script_names_bad_images_at_the_end_and_does_the_rest(exported, runs, tmp_path, monkeypatch, capsys):
    for name in ("a.jpg", "c.jpg"):
        shutil.copy(runs.images / "c0" / "test_0.jpg", tmp_path / name)
    (tmp_path / "b.jpg").write_text("no image")
    monkeypatch.setattr(sys, "argv", ["classify.py", str(tmp_path)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(exported[1] / "classify.py"), run_name="__main__")
    bad, count = str(stopped.value.code).splitlines()
    assert bad.startswith(f"error: cannot read {tmp_path / 'b.jpg'}")
    assert count == "error: 1 of 3 images could not be read"
    rows = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == [str(tmp_path / "a.jpg"), str(tmp_path / "c.jpg")]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--help"], 0, "usage: python classify.py PATH"),
        (["-h"], 0, "example: python classify.py"),
        ([], 2, "usage: python classify.py PATH"),
    ],
)
def test_the_plain_script_explains_itself_at_once(words, status, says, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["classify.py", *words])
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would be an error
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(standalone_script.__file__, run_name="__main__")
    result = capsys.readouterr()
    assert stopped.value.code == status and says in (result.err if status else result.out)


@pytest.mark.parametrize(("word", "says"), [("--topk", "unknown flag --topk"), ("EMPTY", "no image in the folder")])
def test_the_plain_script_refuses_other_words(word, says, tmp_path):
    with pytest.raises(SystemExit, match=says):
        standalone_script.main([word.replace("EMPTY", str(tmp_path))])


def test_the_manifest_describes_the_files(exported):
    _, output, manifest = exported
    assert manifest["classes"] == CLASSNAMES and manifest["image"]["size"] == [64, 64]
    assert (manifest["image"]["max_pixels"], manifest["image"]["max_aspect_ratio"]) == (MAX_PIXELS, MAX_ASPECT_RATIO)
    assert {path.name for path in output.iterdir()} == {"manifest.json", *manifest["files"]}
    for name, entry in manifest["files"].items():
        content = (output / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    for name in ("image_tower.pt2", "image_tower.onnx"):
        assert 0 <= manifest["files"][name]["largest_deviation"] < 1e-5


def test_the_exported_folder_takes_the_place_of_the_run(exported):
    """The prompt file is enough beside the backbone, for the same and for other classes."""
    trainer, output, _ = exported
    images = torch.stack([trainer.test_loader.dataset[i]["img"] for i in range(2)])
    for names in (None, CLASSNAMES[1:3]):
        found = load_classifier(output, names).logits(images)
        assert torch.equal(found, load_classifier(trainer.output_dir, names).logits(images))


@pytest.mark.parametrize("name", ["prompts.safetensors", "classnames.json"])
def test_a_changed_file_of_an_export_is_found(exported, tmp_path, name):
    folder = tmp_path / "changed"
    shutil.copytree(exported[1], folder)
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not the file that manifest.json describes"):
        load_classifier(folder)


@pytest.mark.parametrize("name", ["class_weights.safetensors", "image_tower.pt2"])
def test_the_plain_script_finds_a_changed_file(exported, tmp_path, name, monkeypatch):
    folder = tmp_path / "changed"
    shutil.copytree(exported[1], folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["classify.py", "photo.jpg"])
    with pytest.raises(SystemExit, match=f"{name} is damaged"):
        runpy.run_path(str(folder / "classify.py"), run_name="__main__")


def test_the_plain_script_prints_no_nan(exported, runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(exported[1], folder)
    weights = folder / "class_weights.safetensors"
    tensors = load_file(weights)
    tensors["weights"][2, 5] = float("nan")
    with safe_open(weights, "pt") as file:
        save_file(tensors, weights, file.metadata())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][weights.name]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    image = str(runs.images / "c0" / "test_0.jpg")
    monkeypatch.setattr(sys, "argv", ["classify.py", image])
    capsys.readouterr()
    with pytest.raises(SystemExit, match=f"error: {image}: the logits are NaN or infinite"):
        runpy.run_path(str(folder / "classify.py"), run_name="__main__")
    assert not capsys.readouterr().out


def test_the_plain_script_finds_swapped_class_names(exported, tmp_path, monkeypatch):
    folder = tmp_path / "swapped"
    shutil.copytree(exported[1], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["classes"].reverse()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(sys, "argv", ["classify.py", "photo.jpg"])
    with pytest.raises(SystemExit, match="the class names in manifest.json are not those of the class weights"):
        runpy.run_path(str(folder / "classify.py"), run_name="__main__")


def test_nan_is_not_exported(runs, tmp_path, monkeypatch):
    trainer = runs("CoOp")
    read = package.load_trained

    def with_nan(*arguments, **keywords):
        loaded = read(*arguments, **keywords)
        next(iter(loaded.model.prompts.tensors().values())).data[0, 0] = float("nan")
        return loaded

    monkeypatch.setattr(package, "load_trained", with_nan)
    with pytest.raises(UserError, match="cannot export class_weights.safetensors: NaN or infinite values in weights"):
        export_run(trainer, tmp_path / "out", "--formats")
    assert not (tmp_path / "out").exists()


def test_other_classes_are_exported_without_graphs(runs, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSNAMES[4:]))
    manifest = export_run(runs("VPT"), tmp_path / "out", "--classes", str(names), "--formats")
    assert manifest["classes"] == CLASSNAMES[4:] and "image_tower.pt2" not in manifest["files"]
    assert load_file(tmp_path / "out" / "class_weights.safetensors")["weights"].shape[0] == 3


def test_zero_shot_has_class_weights_and_no_prompts(runs, tmp_path):
    trainer = runs("ZeroshotCLIP")
    manifest = export_run(trainer, tmp_path / "out", "--formats")
    weights = load_file(tmp_path / "out" / "class_weights.safetensors")["weights"]
    torch.testing.assert_close(weights, trainer.text_features)
    assert "prompts.safetensors" not in manifest["files"]


def test_what_depends_on_the_image_is_left_out_and_said(runs, tmp_path, capsys):
    """CoCoOp makes its class weights for each image."""
    trainer = runs("CoCoOp")
    manifest = export_run(trainer, tmp_path / "out", "--formats")
    assert "depend on the image" in capsys.readouterr().out
    assert manifest["class_weights_depend_on_image"]
    assert "prompts.safetensors" in manifest["files"]
    assert not (tmp_path / "out" / "class_weights.safetensors").exists()
    images = trainer.test_loader.dataset[0]["img"][None]
    assert torch.equal(
        load_classifier(tmp_path / "out").logits(images), load_classifier(trainer.output_dir).logits(images)
    )


def test_nothing_of_an_earlier_export_stays(runs, tmp_path):
    export_run(runs("VPT"), tmp_path / "out", "--formats")
    manifest = export_run(runs("ZeroshotCLIP"), tmp_path / "out", "--formats")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"manifest.json", *manifest["files"]}


def test_missing_packages_are_named(runs, tmp_path, monkeypatch):
    find = tower.importlib.util.find_spec
    monkeypatch.setattr(tower.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match="needs onnxscript: pip install -r requirements-export.txt"):
        export_run(runs("CoOp"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_computes_something_else_is_refused(exported, runs):
    """The exported tower against one without its prompts."""
    trainer, output, _ = exported
    unprompted = tower.ImageTower(trainer.prompts.clip, Prompts(trainer.prompts.clip, {}))
    with pytest.raises(UserError, match="image_tower.pt2 computes other features"):
        tower.pt2_deviation(unprompted, Path(output, "image_tower.pt2"))


def test_mistakes_are_said_in_one_line(runs, tmp_path):
    run = Path(runs("CoOp").output_dir)
    with pytest.raises(UserError, match="the run itself"):
        export_run(runs("CoOp"), run, "--formats")
    other = tmp_path / "other run"
    shutil.copytree(runs("MaPLe").output_dir, other)
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="other run has a run, whose record would be replaced"):
        export_run(runs("CoOp"), other, "--formats")
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match="no such folder: .*nothing"):
        export.main(export.parse_args(["--checkpoint", "nothing", "--output", str(tmp_path / "new")]))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        export_run(runs("CoOp"), tmp_path / "file", "--formats")


@pytest.mark.parametrize("part", ["class_weights.safetensors", "image_tower.pt2", "image_tower.onnx"])
def test_a_full_disk_leaves_the_earlier_export(exported, tmp_path, part):
    """The disk is full within `part`: one line, every earlier file as it was, nothing beside them."""
    trainer, earlier, _ = exported
    output = tmp_path / "exported"
    shutil.copytree(earlier, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    formats = [Path(part).suffix[1:]] if part.startswith("image_tower") else []
    with pytest.raises(UserError, match="cannot write"), disk_full_after(len(before[part]) // 2):
        export_run(trainer, output, "--formats", *formats)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


# Two processes


EXPORT_AND_STOP = """
import os, sys
import export
from deploy import export as package

def write_and_stop(*arguments):
    manifest = write(*arguments)
    print("written", flush=True)
    sys.stdin.read()
    return manifest

write, package._write_export = package._write_export, write_and_stop
export.main(export.parse_args())
"""


@contextmanager
def stopped_export(run, output):
    """A process in the middle of an export: everything is written, nothing has its name yet."""
    command = [sys.executable, "-c", EXPORT_AND_STOP, "--checkpoint", run, "--output", output, "--formats"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([*map(str, command)], cwd=ROOT, **pipes) as process:
        try:
            assert "written\n" in process.stdout  # reads up to this line
            yield process
        finally:
            process.kill()


def export_py(run, output):
    return run_forked(["export.py", "--checkpoint", run, "--output", output, "--formats"])


def test_a_second_export_into_a_folder_says_who_is_at_work(runs, tmp_path):
    output = tmp_path / "out"
    with stopped_export(runs("VPT").output_dir, output) as first:
        second = export_py(runs("ZeroshotCLIP").output_dir, output)
        holder = rf"process {first.pid} on \S+ since \d{{4}}-.*: wait for its end, or use another folder"
        assert second.returncode == 1
        assert re.fullmatch(rf"error: another process is at work in {output} \({holder}\n", second.stderr)
        first.stdin.close()
        assert first.wait(timeout=60) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["trainer"] == "VPT"
    assert {path.name for path in output.iterdir()} == {"manifest.json", *manifest["files"]}  # and no lock


def test_a_killed_export_does_not_block_the_next(runs, tmp_path):
    output = tmp_path / "out"
    with stopped_export(runs("VPT").output_dir, output):
        pass
    assert {path.name[:8] for path in output.iterdir()} == {".lock", ".export-"}
    manifest = export_run(runs("ZeroshotCLIP"), output, "--formats")
    assert {path.name for path in output.iterdir()} == {"manifest.json", *manifest["files"]}
