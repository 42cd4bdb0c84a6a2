"""examples/grafana: the dashboard's queries beside a server's metrics, and in a real Prometheus where there is one.

PROMETHEUS=/path/to/prometheus (promtool beside it) takes one that is not on PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from serving_fakes import Colours, Echo, encoded

from deploy.serving.http import application
from deploy.serving.metrics import metrics_application
from deploy.serving.repository import Repository
from deploy.serving.server import _listen
from deploy.serving.service import Service
from deploy.serving.settings import BatchSettings

FOLDER = Path(__file__).parents[3] / "examples" / "grafana"
DASHBOARD = json.loads((FOLDER / "serving.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(not PROMETHEUS, reason="no prometheus: apt install prometheus, or PROMETHEUS=…")


@contextlib.contextmanager
def serving():
    """The addresses of a server of two models and of its metrics."""
    ports, started, stop = [], threading.Event(), threading.Event()

    async def run():
        repository = Repository({"echo": lambda: [Echo()], "colours": lambda: [Colours()]}, BatchSettings())
        service = Service(repository)
        for name in ("echo", "colours"):
            await repository.load(name)
        apps = (application(service), metrics_application(repository, service.telemetry))
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_listen("127.0.0.1", 0)) for _ in apps]
            servers = [uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")) for app in apps]
            tasks = [asyncio.create_task(server.serve([one])) for server, one in zip(servers, sockets)]
            ports.extend(one.getsockname()[1] for one in sockets)
            while not all(server.started for server in servers):
                await asyncio.sleep(0.01)
            started.set()
            await asyncio.to_thread(stop.wait)
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*tasks)
        await repository.drain()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert started.wait(30)
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        stop.set()
        thread.join(30)


def ask(address):
    """Each kind of request: answered by either model, failed, refused."""
    row = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}
    with httpx.Client(base_url=f"http://{address}") as client:
        assert client.post("/v2/models/echo/infer", json={"inputs": [row]}).status_code == 200
        assert client.post("/v2/models/colours/classify", content=encoded((9, 9, 9))).status_code == 200
        wrong = {**row, "datatype": "INT32"}
        assert client.post("/v2/models/echo/infer", json={"inputs": [wrong]}).status_code == 400
        assert client.post("/v2/models/none/infer", json={"inputs": [row]}).status_code == 404


def exposed(address):
    """The names of all series."""
    text = httpx.get(f"http://{address}/metrics").text
    return {re.match(r"\w+", line).group() for line in text.splitlines() if not line.startswith("#")}


def test_the_dashboard_is_what_grafana_imports():
    assert DASHBOARD["schemaVersion"] >= 36  # the first with data sources as {type, uid} everywhere
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    identifiers = [panel["id"] for panel in PANELS]
    assert len(set(identifiers)) == len(identifiers)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD)))
    assert used == set(variables)
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries", "heatmap")
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) >= 1
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_no_panel_lies_over_another():
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_every_metric_of_the_dashboard_is_exposed():
    variables = [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    named = set(re.findall(r"\b(?:nv|deploy|process)_\w+", " ".join([*QUERIES, *variables])))
    assert len(named) > 10
    with serving() as (address, metrics):
        ask(address)
        assert named <= exposed(metrics)


@needs_prometheus
def test_promtool_complains_only_of_tritons_names():
    with serving() as (address, metrics):
        ask(address)
        text = httpx.get(f"http://{metrics}/metrics").text
    tool = Path(PROMETHEUS).with_name("promtool")
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True)
    complaints = done.stderr.splitlines()
    assert complaints  # it was read
    assert [line for line in complaints if not line.startswith("nv_inference_")] == []


@needs_prometheus
def test_every_query_of_the_dashboard_finds_data_in_prometheus(tmp_path):
    with serving() as (address, metrics), scraped(metrics, tmp_path) as prometheus:
        ask(address)
        deadline, missing = time.monotonic() + 30, QUERIES
        while missing and time.monotonic() < deadline:
            ask(address)
            time.sleep(0.5)
            missing = [query for query in missing if not found(prometheus, query)]
        assert missing == []


@contextlib.contextmanager
def scraped(target, folder):
    """The address of a Prometheus that scrapes ``target`` four times a second."""
    settings = (FOLDER / "prometheus.yml").read_text().replace("127.0.0.1:8002", target).replace("5s", "250ms")
    (folder / "prometheus.yml").write_text(settings)
    with _listen("127.0.0.1", 0) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ("config.file", folder / "prometheus.yml"), ("storage.tsdb.path", folder / "data"), ("log.level", "error")
    words = [f"--{name}={value}" for name, value in (*flags, ("web.listen-address", address))]
    with subprocess.Popen([PROMETHEUS, *words], cwd=folder) as process:
        try:
            wait_for(f"http://{address}/-/ready")
            yield address
        finally:
            process.terminate()


def wait_for(url):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not there")


def found(address, query):
    """Whether ``query`` gives numbers. A query that does not parse fails the test."""
    for name, value in (("$__rate_interval", "3s"), ("$model", ".*"), ("$instance", ".*")):
        query = query.replace(name, value)
    reply = httpx.get(f"http://{address}/api/v1/query", params={"query": query}).json()
    assert reply["status"] == "success", reply
    values = [sample["value"][1] for sample in reply["data"]["result"]]
    return any(value != "NaN" for value in values)
