"""review.js alone in Chromium, with a stand-in for the kernel: what its keys send, and when."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

import nbhelpers

SOURCE = Path(nbhelpers.__file__).parent / "front_end" / "review.js"
CLASSES = [f"topic {i}" for i in range(12)]
SHOW = """async ([source, view]) => {
  const { default: { render } } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const heard = {};
  window.sent = [];
  window.kernel = "answers";
  const model = {
    get: () => view,
    on: (name, act) => (heard[name] = act),
    off: () => {},
    send: (message) => {
      if (window.kernel === "gone") throw new Error("there is no kernel");
      window.sent.push(message);
      if (window.kernel === "answers") heard["change:view"]();
    },
  };
  render({ model, el: document.body });
}"""


@pytest.fixture
def queue(new_page: Callable[..., Page]) -> Page:
    view: dict[str, Any] = {"kind": "queue", "title": "Queue", "classes": CLASSES, "editable": True, "said": ""}
    view |= {"failed": False, "n": 2, "decided": 1, "place": 0, "chunk_id": "a", "text": "A text.", "chosen": None}
    page: Page = new_page()
    page.goto("about:blank")
    page.evaluate(SHOW, [SOURCE.read_text("utf-8"), view])
    page.locator("input").focus()
    return page


def done(page: Page) -> list[str]:
    sent: list[dict[str, Any]] = page.evaluate("window.sent")
    return [message["do"] for message in sent]


def test_a_held_key_that_empties_the_search_takes_no_label_back(queue: Page) -> None:
    queue.keyboard.type("top")
    for _ in range(9):  # Playwright repeats a key that is down
        queue.keyboard.down("Backspace")
    queue.keyboard.up("Backspace")
    assert (queue.locator("input").input_value(), done(queue)) == ("", [])
    queue.keyboard.press("Backspace")
    assert done(queue) == ["undo"]


def test_enter_ends_a_composition_and_chooses_nothing(queue: Page) -> None:
    queue.keyboard.type("topic 11")
    press = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: %s, bubbles: true})"
    for composing, wanted in (("true", []), ("false", ["choose"])):
        queue.locator("input").evaluate(f"element => element.dispatchEvent({press % composing})")
        assert done(queue) == wanted


def test_a_kernel_that_is_gone_before_it_answered_is_noticed_at_the_next_key(queue: Page) -> None:
    queue.evaluate("window.kernel = 'busy'")
    queue.keyboard.press("ArrowRight")
    queue.get_by_text("No answer from the kernel yet").wait_for()
    queue.evaluate("window.kernel = 'gone'")
    queue.keyboard.press("ArrowRight")
    queue.get_by_text("The kernel was restarted. Run this cell again").wait_for()
    assert done(queue) == ["move"]
