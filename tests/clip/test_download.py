"""Downloads are checked by SHA-256; nothing damaged is kept. A local HTTP server stands for the real one."""

from __future__ import annotations

import hashlib
import http.server
import multiprocessing
import re
import sys
import threading

import pytest

from clip import clip
from dassl.utils import UserError, downloads
from dassl.utils.locks import locked_while_writing

CONTENT = b"weights of a model " * 200_000
HALF = len(CONTENT) // 2
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT or a range of it, half of it under /short/, and counts requests."""

    requests: list[tuple[str, str | None]] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        if self.path.startswith("/missing/"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:HALF] if self.path.startswith("/short/") else CONTENT[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(autouse=True)
def no_requests_yet(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 1000)
    Handler.requests.clear()


def refused(url, folder, *parts):
    with pytest.raises(UserError) as caught:
        clip._download(url, folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in (url, *parts):
        assert part in message
    assert not folder.exists() or not any(folder.iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    url = f"{server}/{DIGEST}/model.pt"
    path = clip._download(url, tmp_path / "cache")
    assert path == str(tmp_path / "cache" / "model.pt")
    assert (tmp_path / "cache" / "model.pt").read_bytes() == CONTENT
    assert clip._download(url, tmp_path / "cache") == path
    assert len(Handler.requests) == 1
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["model.pt"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server, tmp_path):
    (tmp_path / "model.pt").write_bytes(CONTENT[:100])
    clip._download(f"{server}/{DIGEST}/model.pt", tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_the_old_file_kept(server, tmp_path):
    refused(f"{server}/{'0' * 64}/model.pt", tmp_path / "cache", "SHA-256")
    (tmp_path / "model.pt").write_bytes(b"something of the user's")
    with pytest.raises(UserError):
        clip._download(f"{server}/{'0' * 64}/model.pt", tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == b"something of the user's"


def test_a_connection_that_breaks_off(server, tmp_path):
    """The next call continues with the second half."""
    with pytest.raises(UserError, match=f"cannot download .*{HALF:,} bytes so far.*put the file there yourself"):
        clip._download(f"{server}/short/{DIGEST}/model.pt", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt.part"]
    clip._download(f"{server}/{DIGEST}/model.pt", tmp_path)
    assert Handler.requests[-1] == (f"/{DIGEST}/model.pt", f"bytes={HALF}-")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_processes_that_want_one_file_at_once(server, tmp_path):
    """One of them fetches it; the others wait and find it."""
    url, context = f"{server}/{DIGEST}/model.pt", multiprocessing.get_context("fork")
    processes = [context.Process(target=clip._download, args=(url, tmp_path)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert Handler.requests == [(f"/{DIGEST}/model.pt", None)]


def test_a_missing_file_and_an_unreachable_server(server, tmp_path):
    refused(f"{server}/missing/{DIGEST}/model.pt", tmp_path / "cache", "404")
    refused(f"http://127.0.0.1:1/{DIGEST}/model.pt", tmp_path / "cache", "cannot download", str(tmp_path))


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot download .*cache"):
        clip._download(f"{server}/{DIGEST}/model.pt", tmp_path / "cache")


def test_the_default_cache_is_openais(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert clip._download(f"{server}/{DIGEST}/model.pt") == str(tmp_path / ".cache" / "clip" / "model.pt")


def test_local_paths_stand_for_themselves(tmp_path):
    file = tmp_path / "own.pt"
    file.write_bytes(b"x")
    assert clip._download(clip._MODELS[str(file)]) == str(file)


def test_published_addresses_hold_their_digest():
    """OpenAI's addresses: .../clip/models/<SHA-256>/<file>."""
    remote = {name: url for name, url in clip._MODELS.items() if "://" in url}
    assert {"RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"} <= remote.keys()
    for url in remote.values():
        assert url.startswith("https://openaipublic.azureedge.net/clip/models/")
        assert len(url.split("/")[-2]) == 64 and int(url.split("/")[-2], 16)
    # OpenAI's file of ViT-B/16, as published in CLIP's repository
    assert remote["ViT-B/16"].split("/")[-2].startswith("5806e77cd80f8b59890b7e101eabd078")


def test_without_a_connection_the_first_attempt_is_the_last(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    refused(f"http://127.0.0.1:9/{DIGEST}/model.pt", tmp_path / "cache", "no connection to 127.0.0.1:9")
    assert not waits


def test_a_folder_in_the_place_of_the_file_is_named(server, tmp_path):
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(UserError, match=r"cannot download .*: cannot write .*model.pt: Is a directory; put the file"):
        clip._download(f"{server}/{DIGEST}/model.pt", tmp_path)


def test_a_process_that_waits_says_for_whom(tmp_path, capfd):
    with locked_while_writing(tmp_path, "part.lock"):
        waiting = multiprocessing.get_context("fork").Process(target=lock_and_release, args=(tmp_path,))
        waiting.start()
        waiting.join(1)
    waiting.join(30)
    assert waiting.exitcode == 0
    assert re.search(
        r"Waiting for another process \(process \d+ on .*\), which has .*part.lock", capfd.readouterr().out
    )


def lock_and_release(folder):
    with locked_while_writing(folder, "part.lock", wait=True):
        sys.stdout.flush()
