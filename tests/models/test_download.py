from __future__ import annotations

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from models import WeightsUnavailable
from models.download import download, sha256_of

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Each path is one way a server can behave."""

    def do_GET(self):
        getattr(self, self.path.strip("/"))()

    def log_message(self, *args):
        pass

    def start(self, length):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def good(self):
        self.start(len(BODY))
        self.wfile.write(BODY)

    def unsized(self):
        self.start(None)
        self.wfile.write(BODY)

    def truncated(self):
        self.start(len(BODY))
        self.wfile.write(BODY[:1000])

    def missing(self):
        self.send_error(404)

    def silent(self):
        self.server.release.wait(10)

    def stuck(self):
        self.start(len(BODY))
        self.wfile.write(BODY[:1000])
        self.wfile.flush()
        self.server.release.wait(10)

    def slow(self):
        self.start(len(BODY))
        for start in range(0, len(BODY), len(BODY) // 4):
            self.wfile.write(BODY[start : start + len(BODY) // 4])
            self.wfile.flush()
            time.sleep(0.1)

    def elsewhere(self):
        self.send_response(302)
        self.send_header("Location", "file:///etc/hostname")
        self.end_headers()

    def moved(self):
        self.send_response(302)
        self.send_header("Location", "/good")
        self.end_headers()


@pytest.fixture
def server():
    """The address of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.release = threading.Event()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.release.set()
        running.shutdown()
        thread.join()


def refused(url, folder, match, sha256_prefix=SHA256[:8], **options):
    with pytest.raises(WeightsUnavailable, match=match):
        download(url, folder / "w.pth", sha256_prefix, **options)
    assert list(folder.iterdir()) == [], "a file was left behind"


@pytest.mark.parametrize("path", ["good", "unsized", "slow", "moved"])
def test_a_file_arrives_whole(server, tmp_path, path):
    seen = []
    target = tmp_path / "new" / "folder" / "w.pth"
    download(f"{server}/{path}", target, SHA256[:8], progress=lambda *now: seen.append(now))
    assert target.read_bytes() == BODY
    assert sha256_of(target) == SHA256
    assert list(target.parent.iterdir()) == [target]
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(BODY), None if path == "unsized" else len(BODY))


def test_a_file_there_is_replaced(server, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"damaged")
    download(f"{server}/good", tmp_path / "w.pth", SHA256[:8])
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_another_hash(server, tmp_path):
    refused(f"{server}/good", tmp_path, f"not the file it should be .got {SHA256}; expected 00000000…", "00000000")


def test_cut_short(server, tmp_path):
    refused(f"{server}/truncated", tmp_path, f"broke off .got 1000 bytes; expected {len(BODY)} bytes")


def test_not_there(server, tmp_path):
    refused(f"{server}/missing", tmp_path, "cannot be downloaded .got HTTP 404 Not Found")


def test_a_server_that_does_not_answer(server, tmp_path):
    start = time.perf_counter()
    refused(f"{server}/silent", tmp_path, "did not answer within 0.2 s", timeout=0.2)
    assert time.perf_counter() - start < 2


def test_a_transfer_that_stops(server, tmp_path):
    refused(f"{server}/stuck", tmp_path, "broke off after .* bytes .got timed out", stall=0.2)


@pytest.mark.parametrize("path", ["good", "unsized"])
def test_a_file_too_long(server, tmp_path, path):
    seen = []
    limits = {"max_bytes": 1_000_000, "progress": lambda done, total: seen.append(done)}
    refused(f"{server}/{path}", tmp_path, "is too long .*expected at most 1000000", **limits)
    assert sum(seen) == 0 if path == "good" else seen, "the announced length was not looked at"


def test_nobody_listens(tmp_path):
    with socket.socket() as bound:  # bound, not listening: nobody else gets this port
        bound.bind(("127.0.0.1", 0))
        refused(f"http://127.0.0.1:{bound.getsockname()[1]}/good", tmp_path, "cannot be reached .*refused")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.com/w.pth", "w.pth"])
def test_the_web_only(tmp_path, url):
    refused(url, tmp_path, "downloaded from the web only")


def test_no_redirect_out_of_the_web(server, tmp_path):
    refused(f"{server}/elsewhere", tmp_path, "cannot be downloaded .got HTTP 302")


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsUnavailable, match="cannot write .*got "):
        download(f"{server}/good", tmp_path / "file" / "w.pth", SHA256[:8])
