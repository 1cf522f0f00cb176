"""Downloads are checked by SHA-256; nothing damaged is kept. A local HTTP server stands for the real one."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from clip import clip
from dassl.utils import UserError

CONTENT = b"weights of a model " * 200_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, half of it under /short/, and counts requests."""

    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.startswith("/missing/"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path.startswith("/short/") else CONTENT)

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
def no_requests_yet():
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
    refused(f"{server}/short/{DIGEST}/model.pt", tmp_path / "cache")


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
