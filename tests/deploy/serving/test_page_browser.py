"""The page in Chromium, on a real server: what it shows and does. test_page_looks.py is of how it can be used."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import httpx
import pytest
from browser import PHONE, Tab, serving
from colours import write_colours
from page_models import BLOCKS, SIZE, THREE, load

HOSTILE = "<img src=x onerror=alert(1)>'\"$(exit 9)`"


def test_models_say_what_they_are(tab):
    rows = {row.locator("b").inner_text(): row.inner_text() for row in tab.page.locator(".model").all()}
    assert set(rows) == {"digits", "colours", "sums"}
    for text in rows.values():
        assert all(word in text for word in ("ready", "version 1", "ONNX Runtime", "max batch 8"))
    assert "fp32" in rows["digits"]
    assert "input FP32[N×3×64×64] → logits FP32[N×10]" in rows["digits"]
    assert "x FP32[N×2] → y FP32[N×2]" in rows["sums"]
    assert tab.page.inner_text("#state") == "ready"


def test_a_chosen_image_gets_its_classes(tab):
    tab.choose("digits")
    tab.give(("3.png", "image/png", THREE))
    answer = httpx.post(f"{tab.address}v2/models/digits/classify", content=THREE, timeout=60).json()
    expected = [[one["label"], f"{100 * one['probability']:.1f} %"] for one in answer["predictions"]]
    assert tab.found() == expected
    assert expected[0][0] == "3"
    tab.said(" ms round trip")
    bars = tab.page.locator("#found .bar").all()
    full = bars[0].bounding_box()["width"]
    filled = tab.page.evaluate("() => parseFloat(getComputedStyle(document.querySelector('.bar'), '::before').width)")
    assert filled / full == pytest.approx(answer["predictions"][0]["probability"], abs=0.01)


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_a_dropped_image_gets_boxes_where_they_belong(browser, address, blocks, options):
    tab = Tab(browser, address, **options).open()
    tab.choose("colours")
    tab.drop("blocks.png", "image/png", blocks)
    assert tab.found() == [["red", "90.0 %"], ["green", "80.0 %"], ["blue", "70.0 %"]]
    for drawn, (x1, y1, x2, y2) in zip(tab.boxes(), BLOCKS.values(), strict=True):
        expected = (x1 / SIZE[0], y1 / SIZE[1], x2 / SIZE[0], y2 / SIZE[1])
        assert drawn == pytest.approx(expected, abs=1 / 64)
    names = tab.page.locator(".name").all_inner_texts()
    assert names == ["blue 70.0 %", "green 80.0 %", "red 90.0 %"]  # the best is drawn last, on top
    tab.close()


def test_the_image_is_asked_of_the_model_that_is_chosen_next(tab, blocks):
    tab.choose("colours")
    tab.give(("blocks.png", "image/png", blocks))
    assert len(tab.boxes()) == 3
    tab.choose("digits")
    tab.page.wait_for_function("() => document.querySelectorAll('#found li').length === 5")
    assert tab.page.locator(".box").count() == 0


def drawn(tab, chart):
    """Each line's points as the chart has them, and the number that stands in its legend."""
    lines = tab.page.locator(f"#{chart} path.line").all()
    points = [re.findall(r"[ML]([\d.-]+) ([\d.-]+)", line.get_attribute("d")) for line in lines]
    return points, tab.page.locator(f"#{chart} figcaption b").all_inner_texts()


def test_charts_move_under_load(tab):
    tab.choose("digits")
    with load(tab.address, "digits"):
        tab.page.wait_for_function(
            "() => (document.querySelector('#latency path.line').getAttribute('d').match(/[ML]/g) ?? []).length >= 3"
        )
        (requests, rows), (rate, _) = drawn(tab, "throughput")
        (request, queue, network), times = drawn(tab, "latency")
        label = tab.page.locator("#throughput svg").get_attribute("aria-label")
        badge = tab.page.locator(".model", has_text="digits").locator(".badge").inner_text()
    assert len(requests) == len(rows) >= 3
    assert float(rate.replace(",", "")) > 10
    assert min(float(y) for _, y in requests[-2:]) < 99, "above the base line"
    total, waited, ran = (float(text.removesuffix(" ms")) for text in times)
    assert total >= ran > 0
    assert total >= waited >= 0
    assert len(request) == len(queue) == len(network)
    assert label.startswith("Throughput, now: requests/s ")
    assert badge.endswith(" requests/s")
    stats = httpx.get(f"{tab.address}v2/models/digits/stats").json()["model_stats"][0]
    assert max(batch["batch_size"] for batch in stats["batch_stats"]) > 1
    tab.page.wait_for_timeout(1500)
    heights = tab.page.eval_on_selector_all("#batches rect", "bars => bars.map((bar) => bar.height.baseVal.value)")
    assert len(heights) == 8
    assert sum(heights) == pytest.approx(100)
    assert sum(height > 0 for height in heights) > 1


def test_what_goes_wrong_is_said_in_words(tab, blocks):
    tab.choose("sums")
    tab.said("sums takes no images.")
    tab.choose("digits")
    tab.give(("notes.txt", "text/plain", b"hello"))
    tab.said("notes.txt is not an image.")
    assert tab.errors == []
    tab.give(("cat.png", "image/png", b"hello"))
    tab.said("The image is not an image (got no image format known here; expected JPEG, PNG, WebP")
    assert tab.page.locator("#picture").is_hidden()
    tab.give(("cut.png", "image/png", blocks[: len(blocks) // 2]))
    tab.said("Cannot read the image")
    tab.errors.clear()  # Chromium logs each status of 400


def test_a_file_that_is_too_large_is_said_so(tab, tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    tab.choose("digits")
    tab.page.set_input_files("#file", path)
    tab.page.locator("#said.error", has_text="larger than").wait_for()
    tab.errors.clear()


def test_a_server_that_is_gone_and_comes_back(browser, folder):
    with serving(folder) as address:
        tab = Tab(browser, address).open()
    tab.page.locator("#state", has_text="The server does not answer. Is it still running?").wait_for()
    tab.give(("3.png", "image/png", THREE))
    tab.said("The server does not answer.")
    port = address.rstrip("/").rsplit(":", 1)[1]
    with serving(folder, "--http-port", port):
        tab.page.locator("#state[data-state=ready]").wait_for()
    tab.errors.clear()
    tab.close()


def test_the_key_is_asked_for_and_kept_in_this_tab_alone(browser, folder):
    with serving(folder, "--api-key", "secret") as address:
        tab = Tab(browser, address)
        tab.page.goto(address)
        tab.page.get_by_label("API key").fill("wrong")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_text("This key is wrong.").wait_for()
        assert tab.page.locator("main").is_hidden()
        tab.page.get_by_label("API key").fill("secret")
        tab.page.get_by_role("button", name="Open").click()
        tab.page.wait_for_selector(".model .tensors:not(:empty)")
        tab.choose("digits")
        tab.give(("3.png", "image/png", THREE))
        assert tab.found()[0][0] == "3"
        assert "secret" not in tab.page.content()
        tab.page.reload()
        tab.page.wait_for_selector(".model .tensors:not(:empty)")
        assert tab.page.evaluate("() => [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        tab.page.get_by_role("button", name="Forget the key").click()
        tab.page.get_by_label("API key").wait_for()
        tab.errors = [error for error in tab.errors if "401" not in error]
        tab.close()


def test_names_and_labels_are_text(browser, blocks, tmp_path):
    write_colours(tmp_path / f"{HOSTILE}.onnx", labels=(HOSTILE, "<script>alert(2)</script>", "&amp;"))
    with serving(tmp_path) as address:
        tab = Tab(browser, address).open()
        assert tab.page.locator("#try-title").inner_text() == f"Try {HOSTILE}"
        assert tab.page.locator(".model b").inner_text() == HOSTILE
        tab.give((f"{HOSTILE}.png", "image/png", blocks))
        assert [label for label, _ in tab.found()] == [HOSTILE, "<script>alert(2)</script>", "&amp;"]
        assert len(tab.boxes()) == 3
        assert tab.page.locator("img").count() == 2, "the icon and the picture"
        expected = {"curl: an image": "<script>alert(2)", "Python: an image": "[0.9 ", "Python: arrays": "[[["}
        run_samples(tab, tmp_path, blocks, expected)
        tab.close()


def test_samples_run_as_they_are(tab, tmp_path):
    tab.choose("digits")
    expected = {"curl: an image": '"label":"3"', "Python: an image": "4.377", "Python: arrays": "[["}
    run_samples(tab, tmp_path, THREE, expected)


def run_samples(tab, folder, image, expected):
    """Each sample's code runs as it is, with ``image`` as its cat.jpg, and prints what is expected of it."""
    (folder / "cat.jpg").write_bytes(image)
    for title, words in expected.items():
        code = tab.page.locator("details", has_text=title).locator("code").text_content()
        shell = [shutil.which("bash") or "sh", "-c", code]
        if title.startswith("curl") and shutil.which("curl") is None:
            continue
        command = shell if title.startswith("curl") else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (code, done.stderr)
        assert words in done.stdout, (code, done.stdout)
