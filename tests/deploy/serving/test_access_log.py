"""The access log's lines, as a reader of JSON sees them."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime, timezone

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import Echo

from deploy.errors import MachineError
from deploy.serving.access_log import access_log, line
from deploy.serving.http import application
from deploy.serving.record import Record
from deploy.serving.repository import Repository
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings
from deploy.serving.statistics import Times
from deploy.serving.telemetry import Telemetry

HOSTILE = 'a\n"\\\u2028\x00'


def lines(file):
    return [json.loads(text) for text in file.read_bytes().splitlines()]


def logged(tmp_path, posts, **options):
    """The lines of requests to a server of one model: (path, content, headers) each."""
    file = tmp_path / "access.log"

    async def run():
        telemetry = Telemetry([access_log(str(file))])
        repository = Repository({"echo": lambda: [Echo()]}, BatchSettings())
        await repository.load("echo")
        app = application(Service(repository, telemetry=telemetry), **options)
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for path, content, headers in posts:
                await client.post(path, content=content, headers=headers)
        await repository.drain()
        telemetry.close()

    asyncio.run(run())
    return lines(file)


def test_a_line_for_each_request_with_what_it_was_and_took(tmp_path):
    tensor = {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}
    body = json.dumps({"inputs": [tensor], "id": HOSTILE}).encode()
    before = datetime.now(timezone.utc)
    one, other = logged(
        tmp_path, [("/v2/models/echo/infer", body, {}), ("/v2/models/a%0A%22%00%FF/infer?key=s3cret", b"{}", {})]
    )
    assert before <= datetime.fromisoformat(one.pop("time")) <= datetime.now(timezone.utc)
    times = [one.pop(name) for name in ("ms", "queue_ms", "compute_ms")]
    assert times[0] > times[1] + times[2] > 0
    assert one.pop("bytes_out") > 50
    assert one == {
        **{"protocol": "http", "method": "POST", "path": "/v2/models/echo/infer", "client": "192.0.2.7"},
        **{"model": "echo", "version": "1", "id": HOSTILE, "status": 200, "bytes_in": len(body), "rows": 2},
    }
    assert other["path"] == '/v2/models/a\n"\x00\ufffd/infer'
    assert (other["status"], other["model"], other["rows"], other["compute_ms"]) == (404, "", 0, 0)


def test_neither_the_key_nor_a_query_nor_a_body_is_logged(tmp_path):
    headers = {"Authorization": "Bearer s3cret"}
    found = logged(tmp_path, [("/v2/models/echo/infer?top_k=s3cret", b"s3cret", headers)], key="s3cret")
    assert found[0]["status"] == 400
    assert "s3cret" not in json.dumps(found)


@given(st.text(alphabet=st.characters(exclude_categories=())), st.text())
def test_a_line_is_one_line_of_json_whatever_a_client_names(path, identifier):
    record = Record("http", "POST", path)
    record.named(identifier)
    text = json.dumps(line(record))
    assert text.isascii()
    assert all(char >= " " for char in text)
    assert json.loads(text)["path"] == path[:1024]


def test_times_are_milliseconds():
    record = Record()
    record.ran(0.25, Times(0.001, 0.004, 0.002))
    written = line(record)
    assert (written["queue_ms"], written["compute_ms"], written["ms"]) == (250, 7, 257)


def test_without_a_file_it_is_standard_error_and_a_log_is_appended_to(tmp_path, capsys):
    for file in (str(tmp_path / "a.log"), str(tmp_path / "a.log"), "-"):
        log = access_log(file)
        log.put(Record(path="/here"))
        log.close()
    assert len(lines(tmp_path / "a.log")) == 2
    assert json.loads(capsys.readouterr().err)["path"] == "/here"
    assert not sys.stderr.closed


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path):
    with pytest.raises(MachineError, match="cannot write the access log"):
        access_log(str(tmp_path / "none" / "a.log"))
