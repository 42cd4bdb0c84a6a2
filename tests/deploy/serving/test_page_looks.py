"""The page on a phone, in light and dark, by keyboard."""

from __future__ import annotations

import pytest
from browser import PHONE, Tab
from page_models import THREE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser, address, blocks, scheme):
    tab = Tab(browser, address, **PHONE, color_scheme=scheme).open()
    for model in ("sums", "colours", "digits"):
        tab.choose(model)
        tab.give(("blocks.png", "image/png", blocks))
        tab.page.wait_for_timeout(300)
        for summary in tab.page.locator("details:not(:first-child) summary").all():
            summary.click()
        assert tab.page.evaluate("() => document.documentElement.scrollWidth") == 360
    assert tab.page.get_by_text("Take a photo").is_visible()
    assert tab.page.get_by_label("Take a photo").get_attribute("capture") == "environment"
    for button in tab.page.locator(".button").all():
        assert button.bounding_box()["height"] >= 44
    tab.close()


CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (!/(, 0\\)|transparent)$/.test(colour)) return colour;
        }
        return "white";
    };
    const rows = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
        const [one, two] = [luminance(getComputedStyle(node).color), luminance(behind(node))];
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        rows.push([walker.currentNode.data, ratio]);
    }
    return rows;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser, address, blocks, scheme):
    """Contrast of at least 4.5 (WCAG 2.2, level AA), names on boxes included."""
    tab = Tab(browser, address, color_scheme=scheme).open()
    tab.choose("colours")
    tab.give(("blocks.png", "image/png", blocks))
    tab.boxes()
    shown = tab.page.evaluate(CONTRAST)
    tab.choose("sums")
    tab.said("takes no images")
    shown += tab.page.evaluate(CONTRAST)
    assert {"red 90.0 %", "Choose an image", "sums takes no images."} <= {text for text, _ in shown}
    assert [(text, ratio) for text, ratio in shown if ratio < 4.5] == []
    tab.close()


def test_it_works_by_keyboard(tab):
    choosers = []
    # From the start: asked for late, Chromium may miss the first.
    tab.page.on("filechooser", lambda chooser: choosers.append(chooser))
    tab.page.get_by_role("radio", name="colours").focus()
    tab.page.keyboard.press("ArrowDown")
    assert tab.page.locator("#try-title").inner_text() == "Try digits"
    tab.page.get_by_label("Choose an image").focus()
    for _ in range(10):
        tab.page.keyboard.press("Space")
        tab.page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files([{"name": "3.png", "mimeType": "image/png", "buffer": THREE}])
    assert tab.found()[0][0] == "3"
    assert tab.page.locator("#said").get_attribute("role") == "status"
