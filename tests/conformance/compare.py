"""Compare our server with a real Triton, case by case: ``make conformance``.

Prints every difference with its reason. Fails where one has no reason in ``differences.toml``, or where a server no
longer behaves as was recorded; ``--record`` writes what is observed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from conformance.ask import ask
from conformance.observe import Server
from conformance.ours import Ours
from conformance.suite import CASES, differing, justified, record, recorded
from conformance.triton import Triton


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the observations")
    parser.add_argument("--cases", nargs="+", metavar="WORD", help="only those whose names hold one of the words")
    args = parser.parse_args()
    seen = _observed(args.cases)
    if args.record:
        for server, observations in seen.items():
            record(server, {**recorded(server), **observations} if args.cases else observations)
    return _report(**seen)


def _observed(words: list[str] | None) -> dict[str, dict[str, Any]]:
    cases = [case for case in CASES if not words or any(word in case.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("triton", "ours")]
        for place in places:
            place.mkdir()
        with Triton(places[0]) as triton, Ours(places[1]) as ours:
            return {"triton": _ask_all(triton, cases, "Triton"), "ours": _ask_all(ours, cases, "ours")}


def _ask_all(server: Server, cases: list[Any], name: str) -> dict[str, Any]:
    seen = {}
    for index, case in enumerate(cases):
        if index % 50 == 0:
            print(f"{name}: {index} of {len(cases)} cases", file=sys.stderr)
        seen[case.name] = ask(server, case)
    return seen


def _report(triton: dict[str, Any], ours: dict[str, Any]) -> int:
    reasons = {name: row["reason"] for row in justified() for name in row["cases"]}
    different = differing(triton, ours)
    for name in different:
        print(f"{name}\n  reason  {reasons.get(name, 'NONE')}")
        for mine, theirs in zip(ours[name], triton[name]):
            if mine != theirs:
                print(f"  triton  {json.dumps(theirs)[:200]}\n  ours    {json.dumps(mine)[:200]}")
        print(*(f"  triton  {json.dumps(more)[:200]}\n" for more in triton[name][len(ours[name]) :]), sep="", end="")
    wrong = [f"no reason for: {name}" for name in different if name not in reasons]
    wrong += [f"a reason for what is alike: {name}" for name in reasons if name in ours and name not in different]
    wrong += [
        f"not as recorded: {who}, {name}"
        for who, seen in (("triton", triton), ("ours", ours))
        for name in seen
        if recorded(who).get(name) != seen[name]
    ]
    print(f"{len(ours)} cases, {len(different)} differ, {len(wrong)} unexpected", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
