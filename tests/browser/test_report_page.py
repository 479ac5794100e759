"""report.html in Chromium: nothing asked of a network, nothing that shuts people out, nothing wider than the window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from jupyter_lab import SCREENSHOTS
from playwright.sync_api import Page
from report_made import make_facts

from nbhelpers.report_page import gather, render

NewPage = Callable[..., Page]
CLASSES = {
    "2": ["ham", "spam"],
    "hostile": ["ham", "<script>alert(1)</script>", "a very long class name " * 6, "天气预报", "حالة الطقس"],
    "20": [f"topic {i}, a name of usual length" for i in range(20)],
    "77": [f"banking_intent_{i}_card_payment_fee_charged_twice" for i in range(77)],
}


@pytest.fixture
def opened(new_page: NewPage, tmp_path: Path) -> Callable[..., Page]:
    """`opened("20", dark=True)`: the report of so many classes, opened from a file without a network."""

    def make(classes: str, **options: Any) -> Page:
        file = tmp_path / f"{classes}.html"
        file.write_text(render(gather(make_facts(CLASSES[classes], note="<b>bold</b>"))), "utf-8")
        page = new_page(offline=True, **options)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        return page

    return make


@pytest.mark.parametrize(
    ("classes", "dark"), [("2", False), ("2", True), ("hostile", False), ("20", True), ("77", False)]
)
def test_it_opens_without_a_network_and_without_a_serious_fault_for_anyone(
    opened: Callable[..., Page], classes: str, dark: bool
) -> None:
    page = opened(classes, dark=dark)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.screenshot(path=SCREENSHOTS / f"report_{classes}_{'dark' if dark else 'light'}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    assert [
        (fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")
    ] == []


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_no_window_is_too_narrow(opened: Callable[..., Page], width: int) -> None:
    page = opened("hostile", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_in_dark_ink_whatever_the_theme(opened: Callable[..., Page]) -> None:
    page = opened("2", dark=True)
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert page.evaluate("getComputedStyle(document.querySelector('.inverted')).filter") == "none"
    assert page.evaluate("[...document.images].every(image => image.currentSrc === image.src)")
