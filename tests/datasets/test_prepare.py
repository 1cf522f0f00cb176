"""``python -m datasets.prepare`` from end to end, against a local server with small archives in the true layouts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dassl.utils import UserError, downloads
from dassl.utils.locks import lock
from datasets import prepare
from datasets.acquire import prepare as acquire_prepare
from datasets.acquire.names import downloadable, readers
from datasets.eurosat import EuroSAT
from datasets.imagenet import ImageNet
from datasets.layout.sources import Counts, Download
from datasets.ucf101 import UCF101


class Handler(SimpleHTTPRequestHandler):
    """A file server with range requests and, on demand, with faults."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        start = int(self.headers["Range"].split("=")[1].rstrip("-")) if self.headers.get("Range") else 0
        if start and server.ranges and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if start and server.ranges:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            content = content[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", server.content_type)
        self.end_headers()
        if server.break_after and len(content) > server.break_after:
            content = content[: server.break_after]
            server.break_after = server.break_again
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/served; ``requests`` lists (path, Range header)."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    httpd.requests, httpd.ranges, httpd.content_type = [], True, "application/octet-stream"
    httpd.break_after = httpd.break_again = 0
    httpd.folder, httpd.url = folder, f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 1000)


@pytest.fixture
def run(capsys, tmp_path):
    """Exit status and output of ``prepare NAME --root tmp_path/data ...``."""

    def run_prepare(*args):
        said = ""
        try:
            status = prepare.main([*map(str, args), "--root", str(tmp_path / "data")])
        except UserError as error:  # as `errors_in_one_line` ends the program
            status, said = 1, f"error: {error}\n"
        captured = capsys.readouterr()
        return status, captured.out + captured.err + said

    return run_prepare


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def make_tar(path: Path, members: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def make_zip(path: Path, members: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.read_bytes()


def split_json(rows: dict[str, list[str]]) -> bytes:
    """Each path is folder/file; labels by ascending folder."""
    folders = sorted({path.rpartition("/")[0] for paths in rows.values() for path in paths})
    return json.dumps(
        {
            part: [[path, folders.index(path.rpartition("/")[0]), path.rpartition("/")[0]] for path in paths]
            for part, paths in rows.items()
        }
    ).encode()


EUROSAT_IMAGES = [f"{cls}/{cls}_{number}.jpg" for cls in ("Forest", "River") for number in range(6)]
EUROSAT_SPLIT = {
    "train": [path for path in EUROSAT_IMAGES if path[-5] in "012"],
    "val": [path for path in EUROSAT_IMAGES if path[-5] in "3"],
    "test": [path for path in EUROSAT_IMAGES if path[-5] in "45"],
}


@pytest.fixture
def eurosat(server, monkeypatch):
    """EuroSAT.zip and its split file on the server; address, MD5 and counts in the table. The archive's path."""
    archive = server.folder / "EuroSAT.zip"
    content = make_zip(archive, {f"2750/{path}": picture(n) for n, path in enumerate(EUROSAT_IMAGES)})
    (server.folder / "split_zhou_EuroSAT.json").write_bytes(split_json(EUROSAT_SPLIT))
    images, split = EuroSAT.pieces
    source = images.sources[0]._replace(url=f"{server.url}/EuroSAT.zip", md5=hashlib.md5(content).hexdigest())
    on_server = (
        images._replace(sources=(source,)),
        split._replace(sources=(Download(split.provides, url=f"{server.url}/{split.provides}"),)),
    )
    monkeypatch.setattr(EuroSAT, "pieces", on_server)
    monkeypatch.setattr(EuroSAT, "counts", Counts(2, 6, 2, 4))
    return archive


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "eurosat"


OK = "ok       EuroSAT              2 classes, train 6, val 2, test 4; 12 images decoded"


def test_download_unpack_check_and_a_second_run_that_does_nothing(eurosat, server, run, folder, build):
    status, said = run("eurosat")
    assert (status, said.splitlines()[-1]) == (0, OK)
    assert sorted(path.name for path in folder.iterdir()) == ["2750", "split_zhou_EuroSAT.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["eurosat"]  # no archive, nothing hidden left
    assert len(server.requests) == 2
    assert run("EuroSAT") == (0, OK + "\n")
    assert len(server.requests) == 2
    assert len(build("EuroSAT", folder.parent, shots=1).train_x) == 2


def test_a_download_that_breaks_off_goes_on(eurosat, server, run):
    server.break_after, server.break_again = 3000, 3000
    status, said = run("EuroSAT")
    assert (status, said.splitlines()[-1]) == (0, OK)
    ranges = [given for path, given in server.requests if path == "/EuroSAT.zip"]
    assert ranges[:3] == [None, "bytes=3000-", "bytes=6000-"]


def test_the_next_run_goes_on_where_the_last_gave_up(eurosat, server, run, folder, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.break_after = server.break_again = 3000
    status, said = run("EuroSAT")
    assert status == 1
    assert "(3,000 bytes so far); run again to continue" in said
    assert not (folder / "2750").exists()
    server.break_after = 0
    assert run("EuroSAT")[0] == 0
    assert ("/EuroSAT.zip", "bytes=3000-") in server.requests


def test_a_server_without_range_requests_starts_anew(eurosat, server, run):
    server.ranges, server.break_after = False, 3000
    status, said = run("EuroSAT")
    assert (status, said.splitlines()[-1]) == (0, OK)
    assert [given for path, given in server.requests if path == "/EuroSAT.zip"] == [None, "bytes=3000-"]


def test_a_part_that_is_complete_already(eurosat, server, run, folder):
    downloads = folder.parent / ".downloads"
    downloads.mkdir(parents=True)
    (downloads / "EuroSAT.zip.part").write_bytes(eurosat.read_bytes())
    assert run("EuroSAT")[0] == 0


def test_a_part_of_another_file_is_found_out_and_removed(eurosat, server, run, folder):
    downloads = folder.parent / ".downloads"
    downloads.mkdir(parents=True)
    (downloads / "EuroSAT.zip.part").write_bytes(b"0" * 100)
    status, said = run("EuroSAT")
    assert status == 1
    assert "EuroSAT.zip gave a file with MD5" in said
    assert "it was removed" in said
    assert run("EuroSAT")[0] == 0


def test_a_wrong_hash(eurosat, server, run, folder):
    make_zip(eurosat, {"2750/Forest/Forest_0.jpg": picture()})
    status, said = run("EuroSAT")
    assert status == 1
    assert "EuroSAT.zip gave a file with MD5" in said
    assert not (folder / "2750").exists()
    assert not (folder.parent / ".downloads").exists() or not list((folder.parent / ".downloads").iterdir())


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_with_a_path_that_escapes(eurosat, server, run, folder, monkeypatch, make):
    make(eurosat, {"2750/Forest/Forest_0.jpg": picture(), "../../evil.txt": b"evil"})
    images, split = EuroSAT.pieces
    images = images._replace(sources=(images.sources[0]._replace(md5=""),))
    monkeypatch.setattr(EuroSAT, "pieces", (images, split))
    monkeypatch.setattr(EuroSAT, "counts", Counts(2, 6, 2, 4))
    status, said = run("EuroSAT")
    assert status == 1
    assert "cannot unpack" in said and "evil" in said
    assert not list(folder.parent.parent.rglob("evil*"))
    assert not (folder / "2750").exists()
    assert [path.name for path in folder.iterdir()] == ["split_zhou_EuroSAT.json"]  # the rest was got, no remains


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_with_an_absolute_path_stays_inside(eurosat, run, folder, tmp_path, make):
    target = tmp_path / "evil.txt"
    make(eurosat, {f"2750/{path}": picture(n) for n, path in enumerate(EUROSAT_IMAGES)} | {str(target): b"evil"})
    run("EuroSAT", "--from-dir", eurosat.parent, "--any-hash")  # refused (zip) or taken as a relative path (tar)
    assert not target.exists()
    assert not list(folder.rglob("evil*"))


def test_a_link_that_leads_out_of_the_archive(eurosat, run, folder):
    with tarfile.open(eurosat, "w") as archive:
        link = tarfile.TarInfo("2750")
        link.type, link.linkname = tarfile.SYMTYPE, "../../.."
        archive.addfile(link)
    status, said = run("EuroSAT", "--from-dir", eurosat.parent, "--any-hash")
    assert status == 1
    assert "entries skipped (links, devices, unprintable names): 1, first '2750' (link)" in said
    assert "does not contain 2750" in said
    assert not (folder / "2750").exists()


def test_links_hidden_behind_a_path_beyond_the_longest(run, tmp_path):
    """Sixteen short links over long folder names: `tarfile`'s own check of links gives up on the path they make.

    With Python 3.11.7 and filter="data" this archive writes `escaped` beside the data folder.
    """
    own = tmp_path / "own"
    own.mkdir()
    (own / "classnames.txt").write_text("n01440764 tench\n")
    with tarfile.open(own / "imagenet-a.tar", "w") as archive:

        def add(name, kind, target="", content=b""):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            archive.addfile(member, io.BytesIO(content))

        long, steps, path = "d" * 247, "abcdefghijklmnop", ""
        for step in steps:
            add(f"{path}{long}", tarfile.DIRTYPE)
            add(f"{path}{step}", tarfile.SYMTYPE, long)
            path += f"{long}/"
        hidden = "/".join(steps) + "/" + "l" * 254
        add(hidden, tarfile.SYMTYPE, "../" * len(steps))
        add("escape", tarfile.SYMTYPE, f"{hidden}/../../..")
        add("escape/escaped", tarfile.REGTYPE, content=b"evil")
        add("imagenet-a/n01440764/0.jpg", tarfile.REGTYPE, content=picture())
    status, said = run("ImageNetA", "--from-dir", own)
    assert status == 1
    assert "imagenet-a.tar: entry 'ddd" in said and "has a name that is too long" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "own"]
    assert not (tmp_path / "data" / "imagenet-adversarial" / "imagenet-a").exists()


def test_a_file_that_is_no_archive(eurosat, server, run, folder, monkeypatch):
    eurosat.write_bytes(b"not an archive")
    images, split = EuroSAT.pieces
    images = images._replace(sources=(images.sources[0]._replace(md5=""),))
    monkeypatch.setattr(EuroSAT, "pieces", (images, split))
    monkeypatch.setattr(EuroSAT, "counts", Counts(2, 6, 2, 4))
    assert "is neither a tar nor a zip archive" in run("EuroSAT")[1]
    assert not (folder.parent / ".downloads").exists()  # the next run asks again


def test_a_dead_address_and_the_files_to_get_by_hand(eurosat, server, run, tmp_path):
    archive = eurosat.rename(tmp_path / "EuroSAT.zip")
    status, said = run("EuroSAT")
    assert status == 1
    assert "the server answers 404" in said
    assert "download by hand: EuroSAT.zip (addresses: --list); put them into a FOLDER and run: python -m" in said
    assert run("EuroSAT", "--from-dir", archive.parent)[0] == 0
    assert archive.is_file()  # the user's own file stays


def test_an_address_that_serves_a_web_page(eurosat, server, run):
    server.content_type = "text/html; charset=utf-8"
    assert "the address now serves a web page" in run("EuroSAT")[1]


def test_no_server(eurosat, server, run, monkeypatch):
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    assert "no connection to 127.0.0.1" in run("EuroSAT")[1]


def test_another_source_is_tried(eurosat, server, run, monkeypatch):
    images, split = EuroSAT.pieces
    dead = images.sources[0]._replace(url=f"{server.url}/dead.zip", file="dead.zip")
    both = images._replace(sources=(dead, images.sources[0]))
    monkeypatch.setattr(EuroSAT, "pieces", (both, split))
    monkeypatch.setattr(EuroSAT, "counts", Counts(2, 6, 2, 4))
    status, said = run("EuroSAT")
    assert status == 0
    assert "trying another source" in said


def test_own_archive_with_another_hash(eurosat, run, tmp_path):
    make_zip(tmp_path / "EuroSAT.zip", {f"2750/{path}": picture(n + 1) for n, path in enumerate(EUROSAT_IMAGES)})
    status, said = run("EuroSAT", "--from-dir", tmp_path)
    assert status == 1
    assert "does not have the MD5" in said
    assert run("EuroSAT", "--from-dir", tmp_path, "--any-hash")[0] == 0


def test_archives_can_be_kept(eurosat, run, folder):
    assert run("EuroSAT", "--keep-archives")[0] == 0
    assert (folder.parent / ".downloads" / "EuroSAT.zip").is_file()


def test_google_drive_goes_through_gdown(run, monkeypatch, tmp_path):
    """What gdown gets and how its failures are told; gdown itself is not tested."""
    import gdown

    asked = []

    def refuse(**options):
        asked.append(options["id"])
        raise gdown.exceptions.FileURLRetrievalError("Too many users\nhave viewed this file")

    monkeypatch.setattr(gdown, "download", refuse)
    status, said = run("UCF101")
    assert status == 1
    assert asked == ["10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"]
    assert "https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view: Too many users have viewed" in said
    assert "download by hand: UCF-101-midframes.zip, split_zhou_UCF101.json" in said

    def hand_out(**options):
        Path(options["output"]).write_bytes(served[options["id"]])
        return options["output"]

    images = {f"UCF-101-midframes/{cls}/v_{n}.jpg": picture(n) for cls in ("Tai_Chi", "Yo_Yo") for n in range(4)}
    names = [name.partition("/")[2] for name in images]
    served = {
        "10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O": make_zip(tmp_path / "a.zip", images),
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y": split_json({"train": names[::2], "val": names[1::4], "test": names[3::4]}),
    }
    monkeypatch.setattr(gdown, "download", hand_out)
    monkeypatch.setattr(UCF101, "counts", Counts(2, 4, 2, 2))
    assert run("UCF101")[0] == 0


def images_of(*folders: str, count: int = 4) -> dict[str, bytes]:
    return {f"{folder}/{number}.jpg": picture(number) for folder in folders for number in range(count)}


def lay_out_own_archives(folder: Path) -> dict[str, Counts]:
    """Small archives in the layouts of the real ones, as a user would have them. Returns what they hold."""
    inner = make_tar(folder / "inner.tar.gz", images_of("101_ObjectCategories/anchor", "101_ObjectCategories/yin_yang"))
    make_zip(folder / "caltech-101.zip", {"caltech-101/101_ObjectCategories.tar.gz": inner, "__MACOSX/x": b"x"})
    make_tar(folder / "images.tar.gz", images_of("images"))
    make_tar(folder / "annotations.tar.gz", {"annotations/README": b"x"})
    for part in ("train", "test"):
        make_tar(folder / f"cars_{part}.tgz", images_of(f"cars_{part}"))
    make_tar(folder / "car_devkit.tgz", {"devkit/README.txt": b"x"})
    (folder / "cars_test_annos_withlabels.mat").write_bytes(b"x")
    make_tar(folder / "102flowers.tgz", images_of("jpg"))
    (folder / "imagelabels.mat").write_bytes(b"x")
    (folder / "cat_to_name.json").write_text("{}")
    make_tar(folder / "food-101.tar.gz", images_of("food-101/images/waffles") | {"food-101/meta/classes.txt": b"x"})
    lists = {f"images_variant_{part}.txt": f"{n} 707-320\n".encode() for n, part in enumerate(("train", "val", "test"))}
    aircraft = images_of("images", count=3) | lists | {"variants.txt": b"707-320\n"}
    make_tar(
        folder / "fgvc-aircraft-2013b.tar.gz",
        {f"fgvc-aircraft-2013b/data/{name}": content for name, content in aircraft.items()},
    )
    make_tar(folder / "SUN397.tar.gz", images_of("SUN397/a/abbey"))
    make_zip(folder / "Partitions.zip", {"ClassName.txt": b"/a/abbey\n", "Training_01.txt": b"x"})
    make_tar(folder / "dtd-r1.0.1.tar.gz", images_of("dtd/images/banded") | {"dtd/labels/x": b"", "dtd/imdb/x": b""})
    make_zip(folder / "EuroSAT_RGB.zip", images_of("EuroSAT_RGB/Forest"))
    make_zip(folder / "UCF-101-midframes.zip", images_of("UCF-101-midframes/Yo_Yo"))
    for name, image_folder in (
        ("Caltech101", "anchor"), ("OxfordPets", ""), ("StanfordCars", "cars_train"), ("OxfordFlowers", ""),
        ("Food101", "waffles"), ("SUN397", "a/abbey"), ("DescribableTextures", "banded"), ("EuroSAT", "Forest"),
        ("UCF101", "Yo_Yo"),
    ):  # fmt: skip
        names = [[f"{image_folder}/{n}.jpg".lstrip("/"), 0, "name"] for n in range(4)]
        split = {"train": names[:2], "val": names[2:3], "test": names[3:]}
        (folder / f"split_zhou_{name}.json").write_text(json.dumps(split))
    wnids = ("n01440764", "n01443537")
    (folder / "classnames.txt").write_text("".join(f"n{number:08d} thing\n" for number in range(998)))
    with open(folder / "classnames.txt", "a") as file:
        file.writelines(f"{wnid} fish {wnid}\n" for wnid in wnids)
    top = "imagenetv2-matched-frequency-format-val"
    thousand = {f"{top}/{label}/a.jpeg": picture() for label in range(1000)}
    make_tar(folder / "imagenetv2-matched-frequency.tar.gz", thousand)
    make_zip(folder / "ImageNet-Sketch.zip", images_of(*(f"sketch/{wnid}" for wnid in wnids)))
    for target in ("imagenet-a", "imagenet-r"):
        images = images_of(*(f"{target}/{wnid}" for wnid in wnids))
        make_tar(folder / f"{target}.tar", images | {f"{target}/README.txt": b"x"})
    one_class = Counts(1, 2, 1, 1)
    return {
        **{name: one_class for name in downloadable() if not name.startswith("ImageNet")},
        "FGVCAircraft": Counts(1, 1, 1, 1),
        "ImageNetV2": Counts(1000, None, None, 1000),
        **{name: Counts(2, None, None, 8) for name in ("ImageNetSketch", "ImageNetA", "ImageNetR")},
    }


def test_every_layout_from_archives_that_the_user_has(run, tmp_path, monkeypatch):
    """All but ImageNet (next test): archive names, inner folders and target folders of the table."""
    own = tmp_path / "own"
    counts = lay_out_own_archives(own)
    for name, expected in counts.items():
        monkeypatch.setattr(readers()[name], "counts", expected)
    status, said = run(*counts, "--from-dir", own, "--any-hash")
    assert status == 0, said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("ok ")] == list(counts)
    data = tmp_path / "data"
    assert sorted(path.name for path in (data / "caltech-101").iterdir()) == [
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
    ]
    assert (data / "food-101" / "meta" / "classes.txt").is_file()
    assert (data / "sun397" / "Training_01.txt").is_file()
    assert (data / "dtd" / "labels").is_dir()
    assert not list(data.rglob(".*"))


def test_imagenet_is_arranged_from_its_archives(run, tmp_path, monkeypatch, build):
    from torchvision.datasets import imagenet

    own, wnids = tmp_path / "own", ("n01440764", "n01443537")
    classes = {wnid: {f"{wnid}_{n}.JPEG": picture(n) for n in range(3)} for wnid in wnids}
    tars = {f"{wnid}.tar": make_tar(tmp_path / "class.tar", images) for wnid, images in classes.items()}
    make_tar(own / "ILSVRC2012_img_train.tar", tars)
    make_tar(own / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_{n:08d}.JPEG": picture(n) for n in range(1, 5)})
    # the development kit: (id, wnid, words, gloss, children, ...) of each synset, and the class of each val image
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    synsets = np.array([(i, wnid, f"fish, {wnid}", "", 0) for i, wnid in enumerate(wnids, 1)], dtype=fields)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    top = "ILSVRC2012_devkit_t12/data"
    truth = f"{top}/ILSVRC2012_validation_ground_truth.txt"
    make_tar(own / "ILSVRC2012_devkit_t12.tar.gz", {f"{top}/meta.mat": buffer.getvalue(), truth: b"2\n1\n1\n2\n"})
    (own / "classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    status, said = run("ImageNet", "--from-dir", own)
    assert status == 1
    assert "ILSVRC2012_img_train.tar is not present in the root directory or is corrupted" in said  # the MD5 sum
    assert not (tmp_path / "data" / "imagenet" / "images" / "train").exists()

    sums = {
        part: (file, hashlib.md5((own / file).read_bytes()).hexdigest())
        for part, (file, _) in imagenet.ARCHIVE_META.items()
    }
    monkeypatch.setattr(imagenet, "ARCHIVE_META", sums)
    monkeypatch.setattr(ImageNet, "counts", Counts(2, 6, None, 4))
    status, said = run("ImageNet", "--from-dir", own)
    assert status == 0, said
    dataset = build("ImageNet", tmp_path / "data")
    assert [(Path(item.impath).name, item.classname) for item in dataset.test] == [
        ("ILSVRC2012_val_00000002.JPEG", "tench"),
        ("ILSVRC2012_val_00000003.JPEG", "tench"),
        ("ILSVRC2012_val_00000001.JPEG", "goldfish"),
        ("ILSVRC2012_val_00000004.JPEG", "goldfish"),
    ]


def test_without_archives_imagenet_is_by_hand(run, monkeypatch):
    names = "n01440764 tench\n"
    monkeypatch.setattr(acquire_prepare, "fetch_drive", lambda drive_id, path: Path(path).write_text(names))
    status, said = run("ImageNet")
    assert status == 1
    assert "images/train: ImageNet needs an account at https://image-net.org" in said


def test_generated_data_sets(run, tmp_path):
    status, said = run("ShapesNight")
    assert status == 0, said
    assert said.splitlines()[-1].startswith("ok       ShapesNight")
    assert run("shapes_night")[0] == 0


def test_a_mirror(eurosat, server, run, monkeypatch):
    images, split = EuroSAT.pieces
    nowhere = (
        images._replace(sources=(images.sources[0]._replace(url="http://127.0.0.1:9/EuroSAT.zip"),)),
        split._replace(sources=(Download(split.provides, drive_id="none"),)),
    )
    monkeypatch.setattr(EuroSAT, "pieces", nowhere)
    monkeypatch.setattr(EuroSAT, "counts", Counts(2, 6, 2, 4))
    assert run("EuroSAT", "--mirror", server.url)[0] == 0


def test_the_table_is_whole():
    """Every data set has a way, with the folders and counts of the project's facts."""
    assert len(downloadable()) == 15
    for name in downloadable():
        for source in (source for piece in readers()[name].pieces for source in piece.sources):
            assert source.url or source.drive_id or source.by_hand, (name, source)
            assert len(source.md5) in (0, 32), (name, source)
            assert source.moves or source.imagenet or not source.file.endswith(("gz", "zip", "tar")), (name, source)


def test_list_names_every_address(capsys):
    assert prepare.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "https://drive.google.com/file/d/1hyarUivQE36mY6jSomru6Fjd-JzwcCzN/view" in said
    assert "Shapes" in said


def test_arguments_that_make_no_sense(run, tmp_path):
    assert "which data sets?" in run()[1]
    assert "unknown data set 'eurosatt'; did you mean EuroSAT?" in run("eurosatt")[1]
    assert "none is missing; check --from-dir" in run("EuroSAT", "--from-dir", tmp_path / "none")[1]


def test_two_at_once_do_not_mix_one_data_set(run, server, eurosat, tmp_path):
    folder = tmp_path / "data" / "eurosat"
    taken = lock(folder)
    status, printed = run("EuroSAT")
    assert status == 1 and f"error: another process is at work in {folder} (process {os.getpid()} on" in printed
    assert not server.requests
    taken.release()  # as a killed process would
    assert run("EuroSAT")[0] == 0
    assert not (folder / ".lock").exists()


def test_nothing_stays_of_what_cannot_be_got(run, server, eurosat, tmp_path):
    eurosat.unlink()
    assert run("EuroSAT")[0] == 1
    assert not (tmp_path / "data" / "eurosat" / ".lock").exists()
