"""What a run on a GPU would report, from outcomes as its steps give them."""

import pytest


@pytest.fixture
def report(benchmark_module):
    return benchmark_module("_acceptance_report")


def outcome(what, facts, status="ok", reason=None):
    about = {"model": "net", "precision": "int8", "what": what} if what else {}
    return {"step": what, "status": status, "seconds": 3.0, "about": about, "facts": facts, "reason": reason}


def document(*outcomes):
    machine = {"processor": "CPU", "cores": 16, "load": 1.0}
    fields = {"executed_engines": ["net int8 run TensorRT"], "seconds": 400.0, "budget_s": 470.0, "exit_code": 1}
    tools = {"trtexec": "/usr/bin/trtexec", "tensorrt_rtx": None}
    return {"machine": machine, "tools": tools, "outcomes": [outcome("", []), *outcomes], **fields}


def rows(text, title):
    """The cells of a section's table."""
    lines = text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def compared(sqnr_db):
    return {"all": {"sqnr_db": sqnr_db, "relative": 0.01, "top1": 0.95}}


def test_the_worst_output_and_the_checks_of_consistency(report):
    same = {"same_bits": True, "sqnr_db": None, "relative": 0.0, "failures": []}
    off = {"same_bits": False, "sqnr_db": 47.3, "relative": 1e-3, "failures": []}
    wrong = {"same_bits": False, "sqnr_db": 1.2, "relative": 1.0, "failures": ["logits: SQNR 1.2 dB under 20 dB"]}
    facts = {
        "execution": "executed on H100",
        "reference": {"boxes": compared(None), "scores": compared(21.5)},
        "consistency": {"repeat": same, "same rows": same, "alone": off, "threads": wrong},
        "latency_ms": {"1": 0.2, "32": 1.4},
    }
    ((*_, sqnr, _, twin, repeat, same_rows, alone, threads, one, many, status),) = rows(
        report.markdown(document(outcome("run TensorRT", facts, "failed", "threads: other bits"))), "Run"
    )
    assert (sqnr, twin, repeat, same_rows, alone, threads) == ("21.5", "", "=", "=", "47", "1 NO")
    assert (one, many, status) == ("0.20", "1.40", "failed")


def test_speed_beside_the_peer(report):
    times = {
        batch: {"compute_ms": 0.1, "host_ms": 0.2, "images_per_second": 9000.0, "power_w": None} for batch in ("1", "8")
    }
    facts = {
        "batches": times,
        "best_batch": 8,
        "peer": "trtexec",
        "peer_ms": {"8": 0.0971},
        "ratios": {"8": 1.0299},
        "notes": ["a note"],
        "failures": [],
    }
    text = report.markdown(document(outcome("bench TensorRT", facts)))
    assert rows(text, "Speed") == [
        ["net", "int8", "TensorRT", "1", "0.100", "0.200", "9000", "", "", "", "ok"],
        ["net", "int8", "TensorRT", "8 (best)", "0.100", "0.200", "9000", "trtexec", "0.097", "1.030", "ok"],
    ]
    assert "- bench TensorRT: a note" in text
    assert "- trtexec: /usr/bin/trtexec\n- tensorrt_rtx: not on PATH" in text


def test_the_soak(report):
    facts = {"requests": 5, "rows": 50, "wrong": 0, "grown_mib": {"host": 0.4, "gpu": None}, "execution": "on H100"}
    text = report.markdown(document(outcome("soak TensorRT", facts)))
    assert rows(text, "Under load") == [
        ["net", "int8", "on H100", "3", "5", "50", "0", "+0.4", "not watched", "ok"],
    ]


def test_what_was_not_there_is_a_line_each_failures_first(report):
    skipped = outcome("bench torch.compile", None, "skipped", "the time budget of 470 s is used up")
    missing = outcome("bench TensorRT", None, "missing", "no NVIDIA GPU")
    failed = outcome("soak TensorRT", None, "failed", "killed by SIGSEGV: it said nothing")
    text = report.markdown(document(skipped, missing, failed))
    assert text.partition("## What did not go well\n\n")[2].splitlines() == [
        "- **failed** soak TensorRT: killed by SIGSEGV: it said nothing",
        "- **missing** bench TensorRT: no NVIDIA GPU",
        "- **skipped** bench torch.compile: the time budget of 470 s is used up",
    ]
