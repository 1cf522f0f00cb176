"""Small helpers: logging, meters, registries, files, images, seeds."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import random
import re
import struct
import sys
import tarfile
import termios
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import disk_full_after
from torch import nn

from dassl.config import get_cfg_default
from dassl.utils import (
    MAX_ASPECT_RATIO,
    MAX_PIXELS,
    AverageMeter,
    MetricMeter,
    MissingFileError,
    Registry,
    UnreadableFileError,
    UnwritableFileError,
    UserError,
    check_isfile,
    collect_env_info,
    count_num_param,
    download_url,
    init_network_weights,
    listdir_nohidden,
    mkdir_if_missing,
    open_all_layers,
    open_specified_layers,
    print_above_bar,
    progress_bar,
    read_image,
    read_json,
    set_random_seed,
    setup_logger,
    tolist_if_not,
    write_json,
)
from dassl.utils.archives import unpack_archive
from dassl.utils.numerals import whole_number


def shown_on_terminal(action):
    """What ``action()`` shows on a pseudo-terminal of 100 columns that stands for stdout and stderr."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    with pytest.MonkeyPatch.context() as patch, os.fdopen(slave, "w", buffering=1) as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        action()
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal with an input/output error
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    return shown.decode()


def test_on_a_terminal_the_bar_shows_and_stays_out_of_the_log(tmp_path):
    def action():
        setup_logger(str(tmp_path / "new" / "folder"))
        print("to stdout")
        print("to stderr", file=sys.stderr)
        print("terminal:", sys.stdout.isatty(), sys.stderr.isatty())
        for k in progress_bar(range(3), desc="the bar", mininterval=0):
            print_above_bar(f"step {k}")

    shown = shown_on_terminal(action)
    log = (tmp_path / "new" / "folder" / "log.txt").read_text()
    assert log == "to stdout\nto stderr\nterminal: True True\nstep 0\nstep 1\nstep 2\n"
    assert "the bar:  33%" in shown and "to stdout\r\nto stderr\r\n" in shown
    assert "\rstep 1\r\n" in shown  # on a line of its own


def test_without_a_terminal_there_is_no_bar(tmp_path, monkeypatch):
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    setup_logger(str(tmp_path))
    for k in progress_bar(range(2), desc="the bar", mininterval=0):
        print_above_bar(f"step {k}")
    print("a foreign bar\r", end="", file=sys.stderr)
    assert streams[0].getvalue() == (tmp_path / "log.txt").read_text() == "step 0\nstep 1\n"
    assert streams[1].getvalue() == "a foreign bar\r" and not sys.stdout.isatty()


def test_an_existing_log_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    (tmp_path / "log.txt").write_text("old\n")
    for k in range(3):
        setup_logger(str(tmp_path))
        print(f"run {k}")
    others = sorted(path for path in tmp_path.iterdir() if path.name != "log.txt")
    assert all(re.fullmatch(r"log\.txt-\d{4}(-\d\d){5}(-\d)?", path.name) for path in others)
    assert (tmp_path / "log.txt").read_text() == "old\n"
    assert sorted(path.read_text() for path in others) == ["run 0\n", "run 1\n", "run 2\n"]
    setup_logger(str(tmp_path / "named.log"))
    print("named")
    assert (tmp_path / "named.log").read_text() == "named\n"
    setup_logger(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFileError, match="cannot create the folder"):
        setup_logger(str(tmp_path / "file" / "sub"))


def test_a_log_on_a_full_disk_ends_with_one_error(tmp_path, monkeypatch):
    console = io.StringIO()
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", console)
    setup_logger(str(tmp_path))
    print("fits")
    with disk_full_after(20):
        with pytest.raises(UnwritableFileError, match="cannot write .*log.txt: File too large"):
            print("too long for the disk that is left")
        print("error: shown all the same", file=sys.stderr)
    assert console.getvalue().endswith("error: shown all the same\n")
    assert (tmp_path / "log.txt").read_text() == "fits\ntoo long for th"[:20]


def test_average_meter():
    meter = AverageMeter()
    meter.update(2.0)
    meter.update(torch.tensor(5.0), n=2)
    assert (meter.val, meter.avg, meter.count) == (5.0, 4.0, 3)
    smooth = AverageMeter(ema=True)
    smooth.update(10.0)
    assert smooth.avg == pytest.approx(1.0)


def test_metric_meter():
    meter = MetricMeter()
    meter.update({"loss": 1.0, "acc": torch.tensor(50.0)})
    meter.update({"loss": 2.0, "acc": 100})
    meter.update(None)
    assert str(meter) == "loss 2.0000 (1.5000) acc 100.0000 (75.0000)"
    with pytest.raises(TypeError, match="dictionary"):
        meter.update(1.0)
    with pytest.raises(TypeError, match="note"):
        meter.update({"note": "text"})


def test_registry():
    registry = Registry("SHAPE")

    @registry.register()
    def circle():
        return "round"

    registry.register(len)
    assert registry.get("circle") is circle and registry.registered_names() == ["circle", "len"] and "len" in registry
    with pytest.raises(KeyError, match="already registered"):
        registry.register(circle)
    registry.register(circle, force=True)
    with pytest.raises(UserError, match=r'^unknown SHAPE "Circl" \(did you mean "circle"\?\); available: circle, len$'):
        registry.get("Circl")
    with pytest.raises(KeyError):  # as callers of the lineage expect
        registry.get("square")
    with pytest.raises(UserError, match="none is registered"):
        Registry("EMPTY").get("a")


def test_errors_read_as_their_message():
    for kind in (MissingFileError, UnreadableFileError, UnwritableFileError, *UserError.__subclasses__()):
        assert str(kind("plain words")) == "plain words" and issubclass(kind, UserError)
    assert issubclass(MissingFileError, FileNotFoundError)
    assert str(UserError("one\nline\r\nonly")) == "one line only"


def test_json_files(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json({"a": [1, "é"]}, str(path))
    assert read_json(str(path)) == {"a": [1, "é"]} and '\n    "a"' in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    path.write_text('{"a": ')
    with pytest.raises(UnreadableFileError, match="a.json is not valid JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UnreadableFileError, match="a.json"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(UnreadableFileError, match="a.json"):
        read_json(path)
    with pytest.raises(MissingFileError, match="b.json"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UnwritableFileError, match="cannot write"):
        write_json(1, tmp_path)


def test_folders(tmp_path, capsys):
    mkdir_if_missing(tmp_path / "a" / "b")
    mkdir_if_missing(tmp_path / "a" / "b")
    for name in (".hidden", "c", "B"):
        (tmp_path / "a" / name).write_text("")
    assert listdir_nohidden(tmp_path / "a", sort=True) == ["B", "b", "c"]
    with pytest.raises(MissingFileError, match="nowhere"):
        listdir_nohidden(tmp_path / "nowhere")
    with pytest.raises(UnwritableFileError, match="cannot create"):
        mkdir_if_missing(tmp_path / "a" / "c" / "d")
    assert check_isfile(tmp_path / "a" / "c") and not check_isfile(tmp_path / "none")
    assert "No file found" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_mutated_images_end_in_a_clear_error_or_an_image(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    path = tmp_path / "image"
    for suffix in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        Image.fromarray(rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)).save(path, suffix)
        whole = path.read_bytes()
        for _ in range(60):
            mutated = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
            for place in rng.integers(0, len(mutated), size=3):
                mutated[place] = rng.integers(0, 256)
            path.write_bytes(mutated)
            try:
                assert read_image(path).mode == "RGB"
            except UnreadableFileError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def ramp():
    rows, columns = np.mgrid[:48, :64]
    values = (2 * columns + rows).astype(float)  # [48, 64]
    return values / values.max() * 200 + 20


WIDE = {
    "png of 16 bits": ("png", lambda grey: (grey * 257).astype(np.uint16)),
    "pgm of 16 bits": ("pgm", lambda grey: (grey * 257).astype(np.int32)),
    "tiff of 16 bits": ("tif", lambda grey: (grey * 257).astype(np.uint16)),
    "tiff of 16 bits, big end first": ("tif", lambda grey: (grey * 257).astype(">u2")),
    "jpeg2000 of 16 bits": ("jp2", lambda grey: (grey * 257).astype(np.uint16)),
    "tiff of 32 bits": ("tif", lambda grey: (grey * 257).astype(np.int32)),
    "tiff of 32 bits with 8-bit values": ("tif", lambda grey: grey.astype(np.int32)),
    "tiff of floats up to 1": ("tif", lambda grey: (grey / 255).astype(np.float32)),
    "tiff of floats up to 255": ("tif", lambda grey: grey.astype(np.float32)),
    "tiff of floats up to 65535": ("tif", lambda grey: (grey * 257).astype(np.float32)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_wide_images_are_scaled(tmp_path, kind):
    from PIL import Image

    suffix, widen = WIDE[kind]
    path = tmp_path / f"wide.{suffix}"
    Image.fromarray(widen(ramp())).save(path)
    seen = np.asarray(read_image(path)).astype(float)  # [48, 64, 3]
    assert np.abs(seen - ramp()[..., None]).max() <= 1


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan"), float("inf")])
def test_wide_images_are_never_clipped(tmp_path, value):
    from PIL import Image

    path = tmp_path / "wide.tif"
    values = ramp().astype(np.float32)
    values[3, 4] = value
    Image.fromarray(values).save(path)
    with pytest.raises(UnreadableFileError, match="wide.tif.*are not between 0 and 65535|are not between 0 and 255"):
        read_image(path)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"]
)
def test_images_of_8_bits_are_what_pillow_makes_of_them(tmp_path, mode):
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8))
    via = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    image = picture.convert(via).convert(mode) if via else picture.convert("LA" if mode == "PA" else mode)
    expected = (image.convert(via) if via else image).convert("RGB")
    from dassl.utils.images import to_rgb

    assert to_rgb(image).tobytes() == expected.tobytes()
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image.save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png").tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["dangling link", "FIFO", "device", "too many pixels", "too long", "not UTF-8"])
def test_files_that_only_look_like_images(tmp_path, kind):
    from PIL import Image

    path = tmp_path / "odd.png"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "gone.png")
        says = "link to a file that does not exist"
    elif kind == "FIFO":
        os.mkfifo(path)
        says = "not a regular file"
    elif kind == "device":
        path.symlink_to("/dev/zero")
        says = "not a regular file"
    elif kind == "not UTF-8":
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
        Path(path).write_bytes(b"")
        says = r"\\udcff.png is not an image"
    else:
        size, says = {
            "too many pixels": ((30, 20), "30 x 20 pixels, more than INPUT.MAX_PIXELS 599"),
            "too long": ((1, 2001), "1 x 2,001 pixels, more than INPUT.MAX_ASPECT_RATIO 2,000 times as long"),
        }[kind]
        Image.new("L", size).save(path)
    with pytest.raises(UserError, match=says) as error:
        read_image(path, max_pixels=599 if kind == "too many pixels" else MAX_PIXELS, max_aspect_ratio=2000)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("٣", 3),
        ("४२", 42),
        *dict.fromkeys(["", " 1", "-1", "+1", "1.0", "1_0", "²", "1²", "①", "一", "½", "9" * 5000]).items(),
    ],
)
def test_whole_numbers_in_text(text, number):
    assert whole_number(text) == number


def test_the_bounds_of_images_are_the_configured_ones(tmp_path):
    from PIL import Image

    given = get_cfg_default().INPUT
    assert (given.MAX_PIXELS, given.MAX_ASPECT_RATIO) == (MAX_PIXELS, MAX_ASPECT_RATIO)
    for length in (200, 201):
        Image.new("L", (length, 1)).save(tmp_path / f"{length}.png")
    assert read_image(tmp_path / "200.png").size == (200, 1)
    with pytest.raises(UserError, match="or raise INPUT.MAX_ASPECT_RATIO"):
        read_image(tmp_path / "201.png")
    assert read_image(tmp_path / "201.png", max_aspect_ratio=201).size == (201, 1)


def test_seeds():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_random_seed(5)
    first = draws()
    set_random_seed(5)
    assert draws() == first


def test_environment_is_collected_quickly():
    start = time.perf_counter()
    info = collect_env_info()
    assert time.perf_counter() - start < 1
    assert f"torch: {torch.__version__.split('+')[0]}" in info and "Python: " in info and "GPUs: " in info


def test_layers_open_and_close():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    open_specified_layers(model, "1")
    assert (model[0].training, model[1].training) == (False, True)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters()) and model[0].training
    with pytest.raises(ValueError, match='"head" is not a layer of Sequential'):
        open_specified_layers(model, ["head"])


def test_counting_parameters():
    model = nn.Linear(3, 2)
    assert count_num_param(model) == 8
    assert count_num_param(params=list(model.parameters())) == 8
    assert count_num_param([{"params": [model.weight]}, {"params": model.bias}]) == 8
    with pytest.raises(ValueError, match="at least one"):
        count_num_param()
    assert tolist_if_not(3) == [3] and tolist_if_not([3]) == [3]


@pytest.mark.parametrize("kind", ["normal", "xavier", "kaiming", "orthogonal"])
def test_initialisation(kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.InstanceNorm2d(4))
    before = model[0].weight.clone()
    init_network_weights(model, kind)
    assert not torch.equal(model[0].weight, before) and model[2].bias.abs().sum() == 0
    assert model[1].weight.mean().item() == pytest.approx(1.0, abs=0.1)
    with pytest.raises(ValueError, match="unknown initialisation"):
        init_network_weights(model, "zeros")


def test_download(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3000)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        download_url(f"{address}/source.bin", str(tmp_path / "new" / "copy.bin"), from_gdrive=False)
        with pytest.raises(MissingFileError, match="cannot download .*/gone: the server answers 404"):
            download_url(f"{address}/gone", str(tmp_path / "new" / "other.bin"), from_gdrive=False)
        server.shutdown()
    assert (tmp_path / "new" / "copy.bin").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.bin"]


def test_archives_stay_in_their_folder(tmp_path):
    (tmp_path / "good").write_text("good")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "good", "sub/good")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "good", "sub/good2")
    target = tmp_path / "target"
    target.mkdir()
    for name in ("a.zip", "a.tar.gz"):
        unpack_archive(str(tmp_path / name), str(target))
    assert {path.name for path in (target / "sub").iterdir()} == {"good", "good2"}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(tmp_path / "good", "../evil")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(tmp_path / "good", "../evil")
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:40])
    for name in ("evil.zip", "evil.tar", "text", "cut.zip"):
        with pytest.raises(UnreadableFileError, match=name):
            unpack_archive(str(tmp_path / name), str(target))
    assert not (tmp_path / "evil").exists()
