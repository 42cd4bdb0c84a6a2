"""The rounds of ``benchmarks/serving.py``: one server runs at a time, the others are stopped in place."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _serving_inputs import Inputs
from _serving_load import Answers, Load, generate
from _serving_report import Turn
from _serving_server import Server, Usage
from _serving_subjects import BOUNDS, SUBJECTS, Setup, sink

LEAD_S, WARM_UP_S = 0.3, 0.5  # LEAD_S: until the load's processes have connected


@dataclass(frozen=True)
class Span:
    """When requests start, and the time that counts, in seconds of ``time.monotonic()``."""

    start: float
    begin: float
    end: float

    @staticmethod
    def of(seconds: float) -> Span:
        start = time.monotonic() + LEAD_S
        return Span(start, start + WARM_UP_S, start + WARM_UP_S + seconds)

    def usage(self, server: Server) -> tuple[Usage, Usage]:
        """What the server has used at the begin and at the end. Returns after the end."""
        time.sleep(max(0.0, self.begin - time.monotonic()))
        before = server.usage()
        time.sleep(max(0.0, self.end - time.monotonic()))
        return before, server.usage()


@dataclass(frozen=True)
class Question:
    """How a server is asked; ``rate`` (a second) is of an open loop, None is a closed loop."""

    connections: int
    rate: float | None = None


class Bench:
    """The servers for one kind of input, and the load generator."""

    def __init__(self, args: argparse.Namespace, inputs: Inputs, pool: ProcessPoolExecutor, setup: Setup) -> None:
        self._args, self._inputs, self._pool, self._setup = args, inputs, pool, setup
        self._ours_per_s: dict[int, float] = {}

    def turns(self) -> list[Turn]:
        args = self._args
        questions = [Question(connections) for connections in args.concurrency]
        questions += [Question(max(args.concurrency), rate) for rate in args.open_loop]
        with contextlib.ExitStack() as stack:
            servers = [self._paused(stack, SUBJECTS[name](self._setup)) for name in args.servers]
            self._sink = self._paused(stack, sink(self._setup, self._canned()))
            return [
                self._turn(server, number, question)
                for number in range(args.rounds)
                for question in questions
                for server in servers[:: -1 if number % 2 else 1]
                if server.name not in BOUNDS or self._bounds(server.name, question)
            ]

    def _paused(self, stack: contextlib.ExitStack, server: Server) -> Server:
        stack.callback(server.stop)
        server.pause()
        return server

    def _canned(self) -> Path:
        """A reply as long as a real one."""
        path = self._setup.folder / "reply.http"
        body = bytes(self._inputs.expected[0].nbytes)
        path.write_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return path

    def _bounds(self, name: str, question: Question) -> bool:
        bare = self._setup.kind == "tensor" and question.connections == max(self._args.concurrency)
        return question.rate is None and (name != "bare" or bare)

    def _turn(self, server: Server, number: int, question: Question) -> Turn:
        server.resume()
        ask = self._ask_bound if server.name in BOUNDS else self._ask_server
        span = Span.of(self._args.seconds)
        answers, (before, after) = ask(server, question, span)
        server.pause()
        turn = Turn(
            number,
            self._setup.kind,
            question.connections,
            question.rate,
            server.name,
            throughput=answers.finished / self._args.seconds,
            p50_ms=_percentile_ms(answers.latencies, 50),
            p99_ms=_percentile_ms(answers.latencies, 99),
            memory_mb=after.memory_mb,
            cpu_ms=1e3 * (after.cpu_s - before.cpu_s) / max(1, answers.finished),
            load_cpu_ms=1e3 * answers.cpu_s / max(1, answers.finished),
            unanswered=answers.unanswered,
        )
        if server.name == "ours" and question.rate is None:
            self._ours_per_s[question.connections] = turn.throughput
        print(f"round {number + 1}: {turn.line()}", file=sys.stderr)
        return turn

    def _ask_server(self, server: Server, question: Question, span: Span) -> tuple[Answers, tuple[Usage, Usage]]:
        shares = self._load(server, question, span)
        usage = span.usage(server)
        return _joined(shares), usage

    def _ask_bound(self, server: Server, question: Question, span: Span) -> tuple[Answers, tuple[Usage, Usage]]:
        """Beside the load that ours had. Not for one connection: there, generator and server take turns."""
        connections = question.connections
        beside = None if self._args.unloaded or connections == 1 else self._ours_per_s.get(connections)
        server.tell({"kind": self._setup.kind, "clients": connections, **asdict(span)})
        self._sink.resume()
        shares = self._load(self._sink, Question(connections, beside), span) if beside else []
        usage = span.usage(server)
        answer, load = json.loads(server.line()), _joined(shares)
        self._sink.pause()
        return Answers(answer["latencies"], answer["finished"], cpu_s=load.cpu_s), usage

    def _load(self, server: Server, question: Question, span: Span) -> list[Future[Answers]]:
        kind, expected = self._setup.kind, self._inputs.expected
        shape = (1, *self._inputs.batch.shape[1:])
        requests = tuple(server.wire.request(kind, item, shape) for item in self._inputs.items(kind))
        answers = np.zeros_like(expected) if server is self._sink else expected
        asked = question.connections, question.rate
        load = Load(server.port, server.wire, requests, answers, *asked, **asdict(span))
        return [self._pool.submit(generate, share) for share in load.shares(self._args.processes)]


def _joined(shares: list[Future[Answers]]) -> Answers:
    whole = Answers()
    for share in shares:
        whole.add(share.result())
    return whole


def _percentile_ms(latencies: list[float], percent: int) -> float:
    return 1e3 * float(np.percentile(latencies, percent)) if latencies else 0.0
