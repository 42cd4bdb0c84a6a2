from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.data.loading import image_batches, log_skipped, tell_once
from deploy.errors import InputError
from deploy.images.decode import decode
from deploy.images.preprocess import preprocess
from deploy.specs import Preprocessing

HOW = Preprocessing(16, (16, 16))


def fail(path: Path, error: InputError) -> None:
    raise error


def files(tree: Path) -> list[Path]:
    return sorted(tree.rglob("[0-9].jpg"))


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 12), (5, [5, 5, 2]), (6, [6, 6]), (100, [12])])
def test_batches_come_in_order(tree: Path, batch_size: int, sizes: list[int]) -> None:
    batches = list(image_batches(files(tree), HOW, batch_size, fail))
    assert [len(batch) for batch, *_ in batches] == sizes
    assert [path for _, used, _ in batches for path in used] == files(tree)
    assert [size for _, _, sizes in batches for size in sizes] == [decode(path).shape[:2] for path in files(tree)]
    expected = np.stack([preprocess(decode(path), HOW) for path in files(tree)])
    np.testing.assert_array_equal(np.concatenate([batch for batch, *_ in batches]), expected)


def test_batches_are_the_callers_own(tree: Path) -> None:
    batches = [batch for batch, *_ in image_batches(files(tree), HOW, 4, fail)]
    assert not any(np.shares_memory(a, b) for a in batches for b in batches if a is not b)


def test_unreadable_images_are_named_and_the_others_go_on(tree: Path) -> None:
    bad = [tree / "ant" / "1.jpg", tree / "cat" / "0.jpg"]
    for path in bad:
        path.write_bytes(b"no image")
    told: list[tuple[Path, str]] = []
    batches = list(image_batches(files(tree), HOW, 4, lambda path, error: told.append((path, str(error)))))
    assert [path for path, _ in told] == bad
    assert "1.jpg is not an image" in told[0][1]
    assert [len(batch) for batch, *_ in batches] == [4, 4, 2]
    assert [path for _, used, _ in batches for path in used] == [path for path in files(tree) if path not in bad]


def test_an_elongated_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    Image.new("RGB", (60_000, 1)).save(path)
    with pytest.raises(InputError, match=r"line\.png: a 60000x1 image is too elongated"):
        list(image_batches([path], Preprocessing(232, (224, 224)), 1, fail))


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(9)]
    with pytest.raises(InputError, match=r"no image could be read \(got 9 unreadable files\)") as caught:
        list(image_batches(paths, HOW, 4, lambda path, error: None))
    assert len(caught.value.details) == 5
    assert "0.jpg" in caught.value.details[0]


def test_batch_size_below_one(tree: Path) -> None:
    with pytest.raises(InputError, match="got 0; expected 1 or more"):
        next(image_batches(files(tree), HOW, 0, fail))


def test_log_skipped_names_the_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_skipped(Path("a.jpg"), InputError("cannot read a.jpg"))
    assert caplog.messages == ["skipped: cannot read a.jpg"]


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_threads_end_when_the_reader_stops_early(tree: Path) -> None:
    batches = image_batches(files(tree) * 50, HOW, 2, fail)
    next(batches)
    assert decoding_threads()
    batches.close()
    assert not decoding_threads()


def test_threads_end_when_on_error_raises(tree: Path) -> None:
    (tree / "ant" / "0.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="an empty file"):
        next(image_batches(files(tree) * 50, HOW, 2, fail))
    assert not decoding_threads()


def test_reads_ahead_by_a_bounded_number_of_images_and_drops_them_when_closed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, taken = 2, 3
    go_on = threading.Event()
    opened: list[Path] = []

    def slow_after_the_first(path: Path) -> np.ndarray:
        opened.append(path)
        if len(opened) > taken:
            assert go_on.wait(timeout=30)
        return decode(path)

    monkeypatch.setattr("deploy.data.loading._threads", lambda: threads)
    monkeypatch.setattr("deploy.data.loading.decode", slow_after_the_first)
    batches = image_batches(files(tree) * 50, HOW, taken, fail)
    next(batches)
    release = threading.Timer(0.2, go_on.set)
    release.start()
    batches.close()
    release.join()
    assert len(opened) <= taken + threads


def test_memory_does_not_grow_with_the_number_of_images(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.data.loading._threads", lambda: 2)
    how = Preprocessing(64, (64, 64))
    one = 3 * 64 * 64 * 4
    tracemalloc.start()
    try:
        for _ in image_batches(files(tree) * 50, how, 8, fail):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two batches of 8, 4 read ahead and a few in the making; all 600 images would be 29 MB.
    assert 16 * one < peak < 40 * one


INTERRUPTED = """
import sys
from pathlib import Path
from deploy.data.loading import image_batches, log_skipped, tell_once
from deploy.specs import Preprocessing
for _ in image_batches([Path(sys.argv[1])] * 1_000_000, Preprocessing(64, (64, 64)), 8, log_skipped):
    print("batch", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_ends_at_once(tree: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(files(tree)[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "batch\n"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert stderr.strip().endswith("KeyboardInterrupt")


def test_an_unreadable_image_is_told_of_once(tree: Path) -> None:
    (tree / "bee" / "2.jpg").write_bytes(b"?")
    told: list[str] = []
    skipped = tell_once(told.append)
    for _ in range(3):
        assert sum(len(batch) for batch, *_ in image_batches(files(tree), HOW, 5, skipped)) == 11
    (line,) = told
    assert line.startswith("skipped: ")
    assert "2.jpg" in line
