"""Unpacking what is not trusted: plain files and folders below the folder asked for, or one line that says why not."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from full_disk import disk_full_after

from dassl.utils import UnreadableFileError, UnwritableFileError
from dassl.utils import archives as archives_module
from dassl.utils.archives import require_plain_tree, unpack_archive


def tar_of(path: Path, *members: tuple, mode: str = "w") -> str:
    """Members are (name, content) or (name, type, link target)."""
    with tarfile.open(path, mode) as archive:
        for name, *rest in members:
            member = tarfile.TarInfo(name)
            content = rest[0] if len(rest) == 1 else b""
            if len(rest) == 2:
                member.type, member.linkname = rest
            member.size, member.mode = len(content), 0o6777
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def zip_of(path: Path, *members: tuple[str, bytes], kind: int = 0) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED
            entry.external_attr = (kind | 0o6777) << 16
            archive.writestr(entry, content)
    return str(path)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path):
    """The folder to unpack into; nothing but it may have changed beside it."""
    folder = tmp_path / "around" / "target"
    folder.mkdir(parents=True)
    (folder.parent / "beside").write_text("untouched")
    yield folder
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["beside", "target"]
    assert (folder.parent / "beside").read_text() == "untouched"


CONTENT = (("a/one.txt", b"1"), ("./a/b//two.txt", b"22"), ("three.txt", b""), ("a/ONE.txt", b"upper"))


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_files_and_folders(tmp_path, target, kind):
    path = tmp_path / "archive"
    archive = zip_of(path, *CONTENT) if kind == "zip" else tar_of(path, *CONTENT, mode=kind)
    unpack_archive(archive, str(target))
    unpack_archive(archive, str(target))  # over what is there
    assert files_below(target) == {"a/one.txt": b"1", "a/b/two.txt": b"22", "three.txt": b"", "a/ONE.txt": b"upper"}
    assert (target / "a" / "one.txt").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR) == 0


def test_the_last_of_two_entries_of_one_name_counts(tmp_path, target):
    unpack_archive(tar_of(tmp_path / "twice", ("a", b"first"), ("a", b"second")), str(target))
    assert files_below(target) == {"a": b"second"}


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil", "leads out"), ("a/../../evil", "leads out"), ("a/..", "leads out"),
        ("/evil", "plain relative path"), ("C:/evil", "plain relative path"),
        ("..\\evil", "plain relative path"), ("a\\evil", "plain relative path"),
        ("n" * 256, "too long"), ("ab/" * 500 + "evil", "too long"), ("d/" * 33 + "evil", "more than 32 folders"),
    ],
)  # fmt: skip
def test_names_that_are_refused(tmp_path, target, make, name, says):
    with pytest.raises(UnreadableFileError, match=says) as caught:
        unpack_archive(make(tmp_path / "archive", (name, b"evil")), str(target))
    assert str(tmp_path / "archive") in str(caught.value) and "\n" not in str(caught.value)
    assert files_below(target) == {}


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (("x", tarfile.SYMTYPE, "../beside"), "link"),
        (("x", tarfile.SYMTYPE, "/etc"), "link"),
        (("x", tarfile.LNKTYPE, "../beside"), "hard link"),
        (("x", tarfile.FIFOTYPE, ""), "FIFO"),
        (("x", tarfile.CHRTYPE, ""), "device"),
        (("x", tarfile.BLKTYPE, ""), "device"),
        (("x\ny\x1b[2J", b"content"), "file"),
    ],
)
def test_what_is_neither_file_nor_folder_is_passed_over_and_said(tmp_path, target, member, kind, capsys):
    unpack_archive(tar_of(tmp_path / "tar", member, ("y", b"1")), str(target))
    assert files_below(target) == {"y": b"1"} and len(os.listdir(target)) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"1, first {member[0]!r} ({kind})")


@pytest.mark.parametrize(("mode", "kind"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "FIFO"), (stat.S_IFCHR, "device")])
def test_special_entries_of_a_zip_are_passed_over(tmp_path, target, mode, kind, capsys):
    unpack_archive(zip_of(tmp_path / "zip", ("x", b"../beside"), kind=mode), str(target))
    assert os.listdir(target) == [] and f"first 'x' ({kind})" in capsys.readouterr().out


def test_a_file_below_a_link_of_the_archive_stays_inside(tmp_path, target):
    members = (("x", tarfile.SYMTYPE, ".."), ("x/beside", b"evil"))
    unpack_archive(tar_of(tmp_path / "tar", *members), str(target))
    assert files_below(target) == {"x/beside": b"evil"} and not (target / "x").is_symlink()


def test_links_that_were_there_before_are_not_followed(tmp_path, target):
    (target / "file").symlink_to("../beside")
    (target / "folder").symlink_to("..")
    unpack_archive(tar_of(tmp_path / "one", ("file", b"new")), str(target))
    assert (target / "file").read_bytes() == b"new" and not (target / "file").is_symlink()
    with pytest.raises(UnreadableFileError, match="folder is not a folder"):
        unpack_archive(tar_of(tmp_path / "two", ("folder/beside", b"evil")), str(target))


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(archives_module, "MIN_LIMIT", 100_000)
    monkeypatch.setattr(archives_module, "MAX_RATIO", 20)


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:bz2", "w:xz"])
def test_bombs(tmp_path, target, small_limits, kind):
    path, bomb = tmp_path / "bomb", ("zeros", bytes(3_000_000))
    archive = zip_of(path, bomb) if kind == "zip" else tar_of(path, bomb, mode=kind)
    with pytest.raises(UnreadableFileError, match="more than 20 times its size"):
        unpack_archive(archive, str(target))
    assert files_below(target) == {}


def test_a_bomb_of_many_names(tmp_path, target, small_limits):
    archive = tar_of(tmp_path / "bomb", *((f"{n}", b"") for n in range(3000)), mode="w:xz")
    with pytest.raises(UnreadableFileError, match="more than 20 times its size"):
        unpack_archive(archive, str(target))


def test_a_zip_that_hides_its_size(tmp_path, target):
    path = tmp_path / "zip"
    zip_of(path, ("zeros", bytes(100_000)))
    path.write_bytes(path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(UnreadableFileError, match="cannot unpack"):
        unpack_archive(str(path), str(target))
    assert sum(map(len, files_below(target).values())) <= 10


@pytest.mark.parametrize("kind", [b"x", b"L", b"g"])
def test_a_header_of_gigabytes_is_not_read(tmp_path, target, kind):
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 3 << 30
    path = tmp_path / "tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(2000)))
    with pytest.raises(UnreadableFileError, match="a header of 3,221,22"):
        unpack_archive(str(path), str(target))


def test_an_entry_of_terabytes_that_would_be_skipped(tmp_path, target):
    member = tarfile.TarInfo("pipe")
    member.type, member.size = b"Z", 5 << 40
    path = tmp_path / "tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    with pytest.raises(UnreadableFileError, match="times its size|unexpected end"):
        unpack_archive(str(path), str(target))


def test_damage_is_found(tmp_path, target):
    """Damage that `tarfile` takes for the end of the archive, a broken-off end, a flipped bit in a zip."""
    path = tmp_path / "archive"
    tar_of(path, ("a", b"1" * 600), ("b", b"2" * 600))
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[3 * 512 + 5] ^= 1
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", b"content" * 9)
    flipped = (tmp_path / "zip").read_bytes().replace(b"contentc", b"contenuc", 1)
    for content, says in (
        (spoilt, "header at byte 1,536 is damaged"),
        (whole[:2300], "unexpected end"),
        (whole[: 3 * 512], "ends without the mark of an archive's end"),  # after the last byte of a file
        (gzip.compress(whole[: 3 * 512]), "ends without the mark"),
        (flipped, "CRC"),
    ):
        path.write_bytes(content)
        with pytest.raises(UnreadableFileError, match=says):
            unpack_archive(str(path), str(target))


def test_a_full_disk_is_not_the_archives_fault(tmp_path, target, monkeypatch):
    archive = tar_of(tmp_path / "tar", ("a", bytes(50_000)))
    with disk_full_after(20_000), pytest.raises(UnwritableFileError, match="cannot unpack .* into "):
        unpack_archive(archive, str(target))
    usage = archives_module.shutil.disk_usage(target)
    monkeypatch.setattr(archives_module.shutil, "disk_usage", lambda folder: usage._replace(free=40_000))
    with pytest.raises(UnwritableFileError, match="40,000 bytes are free"):
        unpack_archive(archive, str(target))


def test_a_tree_is_checked_after_unpacking(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("1")
    require_plain_tree(str(tmp_path))
    makers = {
        "link": lambda path: path.symlink_to("file"),
        "folder_link": lambda path: path.symlink_to(".."),
        "hard": lambda path: path.hardlink_to(path.with_name("file")),
        "pipe": lambda path: os.mkfifo(path),
    }
    for name, make in makers.items():
        path = tmp_path / "a" / "b" / name
        make(path)
        with pytest.raises(UnreadableFileError, match="is neither a file nor a folder"):
            require_plain_tree(str(tmp_path))
        path.unlink()
