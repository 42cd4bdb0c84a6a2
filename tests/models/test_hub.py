"""The Hugging Face client against a server of ours that answers as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest
import torch
from safetensors.torch import save_file

from models import WeightsUnavailable
from models.hub import hub_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def point_to(server, monkeypatch):
    """Let the client, which reads these when it is imported, ask ``server``."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with ``a/net``, and an empty cache. ``requests`` are those it got, ``content`` what it sends."""
    from huggingface_hub import constants

    save_file({"weight": torch.arange(6.0)}, tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()

    class Hub(http.server.BaseHTTPRequestHandler):
        requests: list[str] = []  # noqa: RUF012 - one server a test
        sent = content

        def do_HEAD(self):
            self.requests.append(self.command)
            found = self.path == "/a/net/resolve/main/model.safetensors" or COMMIT in self.path
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(self.sent)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        point_to(f"http://127.0.0.1:{running.server_port}", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield Hub
        running.shutdown()
        thread.join()


def test_a_file_is_downloaded_once(hub):
    path = hub_file("a/net", 5)
    assert path.read_bytes() == hub.sent
    asked = len(hub.requests)
    assert "GET" in hub.requests
    assert hub_file("a/net", 5) == path
    assert len(hub.requests) == asked, "the cache was not used"


def test_a_file_of_another_hash_is_refused(hub):
    hub.sent = hub.sent[:-1] + b"?"
    with pytest.raises(WeightsUnavailable, match="is damaged") as caught:
        hub_file("a/net", 5)
    assert caught.value.got == hashlib.sha256(hub.sent).hexdigest()
    assert "resolve/main/model.safetensors elsewhere" in caught.value.fix


@pytest.mark.parametrize("repository", ["a/other", "no repository at all"])
def test_what_the_hub_does_not_have(hub, repository):
    with pytest.raises(WeightsUnavailable, match="cannot be downloaded from the Hugging Face hub") as caught:
        hub_file(repository, 5)
    assert "--weights model.safetensors" in caught.value.fix


def test_a_hub_out_of_reach_is_given_up_at_once(hub, monkeypatch, caplog):
    point_to("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(WeightsUnavailable, match="cannot be downloaded"):
        hub_file("a/net", 5)
    assert "Retrying" not in caplog.text
