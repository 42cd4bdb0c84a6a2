"""Minutes at saturation against a real ``python -m deploy serve``, with clients that misbehave.

python benchmarks/soak.py
python benchmarks/soak.py --minutes 1 --clients 2 --connections 24 --json

Several processes ask for tagged rows and images, right and wrong, while some clients leave, dribble, send half a body,
never read, or come in bursts beyond the queue, and models are replaced, unloaded and loaded. Checked: every answer
belongs to its request, none is lost or doubled, nothing is refused that should not be, statistics add up, memory,
threads and descriptors stay flat after a warm-up, and SIGTERM at saturation answers what was accepted and ends with 0.
Exit code 1 on any violation.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import ROOT, describe, machine

sys.path.insert(0, str(ROOT))

import _soak_checks as checks
import numpy as np
from _soak_crew import Crew
from _soak_models import write_models
from _soak_server import DRAIN_SECONDS, Sample, Server, Watch, growth

NEVER_RELOADED = ("steady", "pictures")
# Of the time; at least so many seconds: pools, caches and malloc's arenas fill.
WARM_UP, WARM_UP_SECONDS = 0.2, 5.0
# Load before SIGTERM: what was sent a second earlier has been read by then.
DRAIN_LOAD_SECONDS = 3.0


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args, Path(folder))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _report(found)
    sys.exit(1 if found["violations"] else 0)


def soak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_models(folder / "models")
    server = Server(folder / "models", folder / "log")
    try:
        idle = _settled(server)
        watch = Watch(server)
        with Crew(server.address, server.document.get("grpc"), args.clients, args.connections, args.seed) as crew:
            crew.start("load")
            watch.start()
            reloads = _load(args.minutes * 60, server, crew, watch, quiet=args.json)
            watch.stop()
            before = crew.finish()
            quiet = _quiet(server, idle)
            counted = {row["name"]: row for row in server.get("/v2/models/stats")["model_stats"]}
            metrics = server.metrics()
            crew.start("drain")
            time.sleep(DRAIN_LOAD_SECONDS)
            crew.tell("stopping")
            ended = _stop(server)
            after = crew.finish()
    finally:
        server.process.kill()
        server.process.wait()
    warm = max(WARM_UP_SECONDS, WARM_UP * args.minutes * 60)
    samples = watch.after(warm)
    memory = growth(samples)
    violations = [
        *checks.answers(before, after, ended["killed"]),
        *checks.memory(memory),
        *checks.held(samples, idle, quiet),
        *checks.sums(before, counted, metrics, NEVER_RELOADED),
        *checks.end(ended, server.log.read_text()),
    ]
    return {
        "benchmark": "soak",
        "machine": machine("onnxruntime", "numpy", "uvicorn"),
        "minutes": args.minutes,
        "warm_up_seconds": warm,
        "answered": dict(before.answered),
        "refused": dict(before.refused),
        "reloads": reloads,
        "outcomes": dict(sorted((before.outcomes + after.outcomes).items())),
        "milliseconds": _percentiles(before.seconds),
        "memory": memory,
        "descriptors": {
            "idle": idle.descriptors,
            "most": max(s.descriptors for s in samples),
            "end": quiet.descriptors,
        },
        "threads": {"idle": idle.threads, "most": max(s.threads for s in samples), "end": quiet.threads},
        "drain": ended,
        "violations": violations,
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{rank}": round(float(np.percentile(seconds, rank)) * 1e3, 2) for rank in (50, 99, 100)}


def _settled(server: Server) -> Sample:
    server.get("/v2")
    time.sleep(1)
    return server.sample(time.monotonic())


def _quiet(server: Server, idle: Sample) -> Sample:
    """Once the clients have gone, their connections close within some seconds."""
    until = time.monotonic() + 40
    while True:
        sample = server.sample(time.monotonic())
        if sample.descriptors <= idle.descriptors or time.monotonic() > until:
            return sample
        time.sleep(0.5)


def _load(seconds: float, server: Server, crew: Crew, watch: Watch, *, quiet: bool) -> int:
    """Replace ``replaced`` and move ``moved`` in and out while the clients work, and say how it goes."""
    start, reloads = time.monotonic(), 0
    while (passed := time.monotonic() - start) < seconds:
        server.post("/v2/repository/models/replaced/load")
        time.sleep(0.5)
        server.post("/v2/repository/models/moved/unload")
        time.sleep(0.2)
        server.post("/v2/repository/models/moved/load")
        reloads += 2
        server.metrics()
        if watch.samples and not quiet:
            _line(passed, seconds, watch.samples[-1], crew)
        time.sleep(max(0.0, min(1.5, start + seconds - time.monotonic())))
    return reloads


def _line(passed: float, seconds: float, sample: Sample, crew: Crew) -> None:
    held = f"RSS {sample.rss_mb:.0f} MB, {sample.descriptors} descriptors, {sample.threads} threads"
    text = f"{passed:5.0f} of {seconds:.0f} s: {crew.answered.value} answers, {crew.faults.value} faults, {held}"
    print(text, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


def _stop(server: Server) -> dict[str, Any]:
    """SIGTERM at saturation: when it was sent, how long the process took, and how it ended."""
    killed = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    try:
        code: int | str = server.process.wait(DRAIN_SECONDS + 5)
    except Exception:  # noqa: BLE001 - a report, not an error
        code = "still running"
    return {"killed": killed, "seconds": round(time.monotonic() - killed, 2), "code": code}


def _report(found: dict[str, Any]) -> None:
    print(describe(found["machine"]))
    print(f"{found['minutes']:g} minutes, {found['reloads']} loads of models, warm-up {found['warm_up_seconds']:.0f} s")
    for name in ("answered", "refused", "outcomes", "milliseconds", "memory", "descriptors", "threads", "drain"):
        values = ", ".join(
            f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in found[name].items()
        )
        print(f"  {name:12} {values}")
    for violation in found["violations"]:
        print(f"VIOLATION: {violation}")
    print(f"{len(found['violations'])} violations")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=2, help="client processes (default 2)")
    parser.add_argument("--connections", type=int, default=24, help="of each client process, at work (default 24)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
