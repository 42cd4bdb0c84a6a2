"""One file measured by ``python -m deploy bench``, a plan also by NVIDIA's timer or a bare loop: the child process
behind the acceptance run's bench steps.

Prints one JSON document: medians and throughput at each batch size, which is best, and for a plan its GPU Compute Time
over the peer's at batch 1 and at the best one. Exit code as deploy.errors has it: 1 where ours is more than 3 % slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import _bare_loop
import _trtexec

from deploy.engine.flavours import load_flavour
from deploy.engine.plan import plan_kind
from deploy.errors import DeployError, InputError, MachineError
from deploy.manifest import read_plan_manifest

# Ours over the peer's at most: the noise of a steady GPU is about 1 %.
MOST_RATIO = 1.03
# Ours, peer, ours, peer: what slows the whole GPU for a while slows both.
_TURNS = 2
Timed = dict[int, dict[str, Any]]


def main() -> None:
    args = _arguments()
    try:
        document = measure(args.file, args.batches, args.duration_s, args.device)
    except DeployError as error:
        print(json.dumps(error.as_dict()))
        sys.exit(error.exit_code)
    print(json.dumps(document))
    sys.exit(1 if document["failures"] else 0)


def measure(file: Path, batches: Sequence[int], seconds: float, device: str) -> dict[str, Any]:
    ours = bench(file, batches, seconds, device)
    best = max(ours, key=lambda batch: ours[batch]["images_per_second"])
    document = {"batches": ours, "best_batch": best, "failures": [], "notes": []}
    return document if file.suffix != ".plan" else {**document, **_beside_peer(file, sorted({1, best}), seconds, ours)}


def bench(file: Path, batches: Sequence[int], seconds: float, device: str) -> Timed:
    """What ``python -m deploy bench`` says, in short.

    Raises:
        MachineError: there is no such verb, or this machine cannot run the file.
        DeployError: it failed.
    """
    options = ["--batch", ",".join(map(str, batches)), "--duration-s", f"{seconds:g}", "--device", device, "--json"]
    command = [sys.executable, "-m", "deploy", "bench", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return read_bench(done.returncode, done.stdout, done.stderr)


def read_bench(code: int, output: str, errors: str = "") -> Timed:
    try:
        document = json.loads(output)
    except ValueError as error:
        raise DeployError("bench printed no JSON", got=(output + errors).strip()[-300:] or "nothing") from error
    if "invalid choice: 'bench'" in str(document.get("error")):
        raise MachineError("bench is not there: python -m deploy has no such verb")
    if code:
        kind = MachineError if code == MachineError.exit_code else DeployError
        raise kind(f"bench: {document['error']}", got=document["got"], expected=document["expected"])
    return {result["batch"]: _short(result) for result in document["results"]}


def _short(result: Mapping[str, Any]) -> dict[str, Any]:
    compute = result["gpu_compute_time_ms"]
    return {
        "host_ms": result["host_latency_ms"]["median"],
        "compute_ms": compute["median"] if compute else None,
        "images_per_second": result["images_per_second"],
        "power_w": result["power_w"],
    }


def _beside_peer(plan: Path, batches: Sequence[int], seconds: float, first: Timed) -> dict[str, Any]:
    name, peer, notes = _peer(plan, seconds)
    ours = {batch: [first[batch]["compute_ms"]] for batch in batches}
    theirs: dict[int, list[float]] = {batch: [] for batch in batches}
    try:
        for turn in range(_TURNS):
            again = bench(plan, batches, seconds, "cuda") if turn else {}
            for batch in batches:
                ours[batch] += [again[batch]["compute_ms"]] if again else []
                theirs[batch].append(peer(batch))
    except DeployError as error:
        if not all(theirs.values()):
            return {"notes": [*notes, f"not compared with {name}: {error.headline}"]}
    return {"peer": name, "notes": notes, **verdict(name, ours, theirs)}


def verdict(
    peer: str, ours: Mapping[int, Sequence[float | None]], theirs: Mapping[int, Sequence[float]]
) -> dict[str, Any]:
    """Milliseconds of each turn by batch → the ratio of the medians, and where ours is more than 3 % slower."""
    told = {batch: [ms for ms in times if ms is not None] for batch, times in ours.items()}
    if not all(told.values()):
        return {"failures": [f"the runner tells no GPU Compute Time: not compared with {peer}"]}
    medians = {batch: statistics.median(times) for batch, times in theirs.items()}
    ratios = {batch: statistics.median(times) / medians[batch] for batch, times in told.items()}
    slower = {batch: ratio for batch, ratio in ratios.items() if ratio > MOST_RATIO}
    failures = [f"{100 * (ratio - 1):.1f} % slower than {peer} at batch {batch}" for batch, ratio in slower.items()]
    return {"peer_ms": medians, "ratios": ratios, "failures": failures}


def _peer(plan: Path, seconds: float) -> tuple[str, Callable[[int], float], list[str]]:
    """Its name, batch → milliseconds, and why it is not another."""
    flavour, manifest = plan_kind(plan).flavour, read_plan_manifest(plan)
    try:
        if manifest is None:
            raise MachineError("the plan has no manifest that tells its inputs")
        tool = _trtexec.find(flavour)
    except MachineError as error:
        loaded, content = load_flavour(flavour), plan.read_bytes()
        note = f"{error.headline}: compared with a bare loop over TensorRT's calls"
        return "a bare loop", lambda batch: _bare_loop.bare_loop(content, loaded, batch, seconds).compute_ms, [note]
    inputs = manifest.inputs
    return Path(tool).name, lambda batch: _trtexec.time_plan(tool, plan, inputs, batch, seconds).compute_ms, []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help=".onnx or .plan")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--duration-s", type=float, default=2.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if 1 not in args.batches:
        raise SystemExit(InputError("batch 1 is always measured", got=args.batches).headline)
    return args


if __name__ == "__main__":
    main()
