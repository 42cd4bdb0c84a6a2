"""INT8 by ours, ONNX Runtime and ModelOpt on trained networks: accuracy, seconds and peak memory, all in one run.

python benchmarks/quantization.py --photo1000 DIR
python benchmarks/quantization.py --train efficientnet_b0 shufflenet_v2_x1_0 --modelopt-python modelopt/bin/python
python benchmarks/quantization.py --subsets --photo1000 DIR     # other calibration images, the same accuracy?
python benchmarks/quantization.py --memory                      # 10,000 images, the same memory?

Every row is a process of its own, and every graph is judged alike: by its twin, on labelled photographs. Peers run with
symmetric INT8 per channel at their own placement and at ours; the last column counts the inputs of nodes that they
quantize and ours does not, and the other way round. ModelOpt is left out without --modelopt-python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _int8_report import (
    Verdict,
    cost_verdicts,
    memory_verdicts,
    photo1000_verdicts,
    subset_verdicts,
    subsets,
    table,
    trained_verdict,
)
from _int8_rows import (
    ONNX_RUNTIME,
    OURS,
    RIVAL,
    Failed,
    Row,
    judged,
    onnx_runtime_row,
    our_row,
    ours,
    peers,
    write_placement,
)
from _int8_subjects import Network, photo1000, trained, untrained
from _measure import describe, interleave, machine

FEW, MANY, PEER_MANY = 256, 10_000, 1_024


def main() -> None:
    args = _arguments()
    document = {"benchmark": "quantization", "machine": machine("onnxruntime", "numpy", "pillow", "nvidia-modelopt")}
    measure = _memory if args.memory else _subsets if args.subsets else _compare
    document |= measure(args)
    if args.json:
        print(json.dumps(document, indent=2, default=lambda verdict: verdict.to_dict()))
        return
    print(describe(document["machine"]))
    for title, rows in document["rows"].items():
        print(f"\n{title}\n\n{table(rows)}")
    print()
    print(*document["verdicts"], sep="\n")


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    """Every row on every network."""
    if args.modelopt_python is None and args.only != "ours":
        _note("ModelOpt is left out: give --modelopt-python PYTHON, one that has nvidia-modelopt[onnx] and pillow")
    rows: dict[str, list[dict[str, Any]]] = {}
    verdicts: list[Verdict] = []
    for network, of_photo1000 in _networks(args):
        found = rows[network.name] = _measured(network, _rows(network, args))
        verdicts += photo1000_verdicts(found) if of_photo1000 else [trained_verdict(network.name, found)]
        ratio = _time_ratio(network, found, args.repeats) if args.only is None else None
        verdicts += cost_verdicts(network.name, found, ratio)
    return {"rows": rows, "verdicts": verdicts}


def _networks(args: argparse.Namespace) -> Iterator[tuple[Network, bool]]:
    """Each network, and whether it is photo1000's."""
    if args.photo1000:
        yield photo1000(args.photo1000, args.work), True
    for model in args.train:
        yield trained(model, args.photos, args.minutes, args.work), False


def _rows(network: Network, args: argparse.Namespace) -> list[Row]:
    wanted = [] if args.only == "peers" else ours(network)
    return wanted if args.only == "ours" else [*wanted, *peers(network, args.modelopt_python)]


def _measured(network: Network, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Facts of each row, those of the FP32 graph first; ``failed`` where there is no graph."""
    write_placement(network)
    facts = {row: _made(row) for row in rows}
    scores = judged(network, [row.output for row, fact in facts.items() if "failed" not in fact])
    for row, fact in facts.items():
        fact |= scores.get(str(row.output), {})
    fp32 = {"name": "FP32", "side": "reference", **scores[str(network.graph)]}
    return [fp32, *facts.values()]


def _made(row: Row) -> dict[str, Any]:
    fact: dict[str, Any] = {"name": row.name, "side": row.side, "detail": row.detail}
    try:
        fact |= asdict(row.make())
    except Failed as error:
        fact["failed"] = str(error)
    _note(f"{row.name}, {row.detail}: {fact.get('failed') or _cost(fact)}")
    return fact


def _time_ratio(network: Network, rows: Sequence[dict[str, Any]], repeats: int) -> float | None:
    """Our fast recipe's time over the rival's, in turns."""
    if any("failed" in row for row in rows if row["name"] in ("fast", RIVAL)):
        return None
    fast, rival = our_row(network, "fast", OURS["fast"]), onnx_runtime_row(network, "Percentile")
    versus = interleave(fast.make, rival.make, repeats)
    medians = ", ".join(f"{side} {versus.median(side, 'seconds'):.1f} s" for side in ("ours", "peer"))
    _note(f"fast against {RIVAL}, medians of {repeats} turns: {medians}")
    return versus.ratio("seconds")


def _subsets(args: argparse.Namespace) -> dict[str, Any]:
    """Our recipes with other calibration images, and with the same ones in another order."""
    rows: dict[str, list[dict[str, Any]]] = {}
    verdicts: list[Verdict] = []
    for network, _ in _networks(args):
        chosen = subsets(sorted(network.calibration.iterdir()))
        folders = {name: _linked(files, network.folder / "subsets" / name) for name, files in chosen.items()}
        for recipe, options in OURS.items():
            made = [our_row(network, recipe, options, folder, detail=name) for name, folder in folders.items()]
            facts = _measured(network, made)[1:]
            rows[f"{network.name}, {recipe}, by calibration images"] = facts
            if not any("failed" in fact for fact in facts):
                verdicts += subset_verdicts(f"{network.name}, {recipe}", {f["detail"]: f["sqnr_db"] for f in facts})
    return {"rows": rows, "verdicts": verdicts}


def _memory(args: argparse.Namespace) -> dict[str, Any]:
    """Our fast recipe with few images and with many; the peers as far as this machine's memory goes."""
    network = untrained(args.work, FEW)
    photos = sorted(network.calibration.iterdir())
    rows = []
    for count in (FEW, MANY):
        folder = _linked([photos[index % FEW] for index in range(count)], network.folder / f"{count}")
        rows.append(_made(our_row(network, "fast", OURS["fast"], folder, count, f"{count} images")))
    verdicts = [] if any("failed" in row for row in rows) else list(memory_verdicts(rows))
    rows += [] if args.only == "ours" else _peer_memory(network, photos)
    return {"rows": {network.name: rows}, "verdicts": verdicts}


def _peer_memory(network: Network, photos: Sequence[Path]) -> Iterator[dict[str, Any]]:
    folder = _linked([photos[index % FEW] for index in range(PEER_MANY)], network.folder / f"{PEER_MANY}")
    for method in ONNX_RUNTIME:
        few = _made(onnx_runtime_row(network, method, f"{FEW} images"))
        yield few
        if "failed" in few:
            continue
        many = onnx_runtime_row(network, method, f"{PEER_MANY} images", folder)
        needed = few["peak_mb"] * PEER_MANY / FEW
        if needed > _available_mb() / 2:
            reason = f"not tried, it would need about {needed:.0f} MB"
            yield {"name": many.name, "side": many.side, "detail": many.detail, "failed": reason}
        else:
            yield _made(many)


def _linked(files: Sequence[Path], folder: Path) -> Path:
    """A folder of links to ``files`` that sorts in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for link in folder.iterdir():
        link.unlink()
    for index, path in enumerate(files):
        (folder / f"{index:05}{path.suffix}").symlink_to(path.absolute())
    return folder


def _available_mb() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cost(fact: dict[str, Any]) -> str:
    return f"{fact['seconds']:.1f} s, peak {fact['peak_mb']:.0f} MB"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _absolute(path: str) -> Path:
    """Quantizers run in folders of their own. Not resolved: a virtual environment's Python is a link."""
    return Path(path).absolute()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo1000", type=_absolute, metavar="DIR", help="trained weights, calibration/ and eval/")
    parser.add_argument("--train", nargs="+", default=[], metavar="MODEL", help="networks to train first")
    parser.add_argument("--photos", type=_absolute, metavar="DIR", help="photographs to train on")
    parser.add_argument("--minutes", type=float, default=20, help="training time of each network (default 20)")
    parser.add_argument("--work", type=_absolute, default="build/quantization", metavar="DIR")
    parser.add_argument(
        "--modelopt-python", type=_absolute, metavar="PYTHON", help="a Python that has nvidia-modelopt[onnx]"
    )
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--repeats", type=int, default=3, help="turns in which times are compared (default 3)")
    parser.add_argument("--subsets", action="store_true", help="our recipes on thirds of the calibration images")
    parser.add_argument("--memory", action="store_true", help=f"our peak memory for {FEW} and {MANY} images")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (args.memory or args.photo1000 or args.train):
        parser.error("nothing to quantize: give --photo1000 DIR or --train MODEL, or --memory")
    return args


if __name__ == "__main__":
    main()
