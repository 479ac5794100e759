"""The random audit, the review queue and the matrices in JupyterLab: by mouse and by keyboard, down to the files."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import Case
from chat_server import ChatServer, confident
from jupyter_lab import OpenNotebook, save_screenshot
from playwright.sync_api import Locator, expect
from runs_made import prepare

from nbhelpers.config_file import load_config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.run_folder import RunFolder

OpenIt = Callable[..., OpenNotebook]
QUEUE, TRAIN, TEST = "Labels worth a person's minute", "Train set, by cross-validation", "Test set (read only)"
AUDIT = "Random audit of the test labels"


@pytest.fixture
def server(case: Case) -> Iterator[ChatServer]:
    """LLMs that say how sure they are."""
    with ChatServer(confident(case.answer, case.classes, 0.75), models=["large", "small"]) as running:
        yield running


@pytest.fixture
def store(case: Case, config: Path) -> Iterator[LabelStore]:
    """The label store of a run folder as notebooks 1 to 3 leave it."""
    settings, run = load_config(config), RunFolder(case.output)
    with LabelStore(run.labels) as opened:
        prepare(settings, run, opened)
        yield opened


def shown(notebook: OpenNotebook, title: str) -> Locator:
    """One of the notebook's review widgets, in view."""
    found = notebook.panel.get_by_role("region", name=title)
    found.scroll_into_view_if_needed()
    return found


def text_of(queue: Locator) -> str:
    return queue.locator(".nbh-text").inner_text()


def press(queue: Locator, key: str, *, told: str) -> None:
    queue.page.keyboard.press(key)
    expect(queue.get_by_role("status")).to_have_text(told)


def dataset(case: Case, number: int) -> dict[str, dict[str, Any]]:
    """What trained classifier `number`, by text."""
    lines = (case.output / "classifiers" / "datasets" / f"dataset_{number}.jsonl").read_text("utf-8").splitlines()
    return {row["text"]: row for row in map(json.loads, lines)}


def test_what_a_person_says_in_the_queue_and_in_the_matrix_trains_the_next_classifier(
    open_notebook: OpenIt, case: Case, config: Path, store: LabelStore
) -> None:
    overrides = ["training.max_iters=1", "labeling.cascade=0"]
    notebook = open_notebook("04_train", config, overrides=overrides).run_all()
    page = notebook.page
    queue = shown(notebook, QUEUE)
    queue.locator(".nbh-text").click()
    first = text_of(queue)
    press(queue, "2", told="Stored: spam.")
    expect(queue.get_by_role("heading")).to_have_text(QUEUE)
    second = text_of(queue)
    assert second != first
    press(queue, "1", told="Stored: not spam.")
    press(queue, "Backspace", told="Taken back: text 2 is undecided again.")
    assert text_of(queue) == second
    page.keyboard.press("ArrowLeft")
    expect(queue.locator(".nbh-text")).to_have_text(first)
    expect(queue.get_by_role("button", name="2 spam")).to_have_attribute("aria-pressed", "true")
    assert list(store.human_labels().values()) == ["spam"]
    save_screenshot(queue, "queue")

    matrix = shown(notebook, TRAIN)
    matrix.locator("td[data-at='0 0']").click()
    expect(matrix.get_by_role("status")).to_contain_text("texts.")
    moved = matrix.locator("li").first
    told = dict(zip(moved.locator("dt").all_inner_texts(), moved.locator("dd").all_inner_texts(), strict=True))
    assert told.keys() == {"small LLM", "its reply", "classifier"}
    assert told["small LLM"] == "not spam (75 %)"
    assert told["its reply"].startswith("A keyword decides.")
    assert re.fullmatch(r"not spam \(\d+ %\)", told["classifier"])
    text = moved.locator(".nbh-text").inner_text()
    assert text != first
    moved.get_by_label("class").select_option("spam")
    moved.get_by_role("button", name="Store").press("Enter")
    expect(matrix.get_by_role("status")).to_have_text("Stored: spam. The next iteration learns from it.")
    expect(moved).to_contain_text("✓ your label")
    assert notebook.serious_faults() == []
    save_screenshot(matrix, "matrix_train")
    chunks = {row["text"]: row["chunk_id"] for row in dataset(case, 1).values()}
    assert store.human_labels() == {chunks[first]: "spam", chunks[text]: "spam"}
    assert dataset(case, 1)[text]["source"] == "small"

    expect(notebook.run_below("rounds.step().number")).to_have_text("2")
    for corrected in (first, text):
        row = dataset(case, 2)[corrected]
        assert (row["label"], row["source"]) == ("spam", "human")


def test_the_matrix_of_the_test_set_is_walked_by_keyboard_and_changes_nothing(
    open_notebook: OpenIt, config: Path, store: LabelStore
) -> None:
    notebook = open_notebook("04_train", config, overrides=["training.max_iters=1"], width=520, dark=True).run_all()
    matrix = shown(notebook, TEST)
    matrix.locator("td[data-at='0 0']").click()
    notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Enter")
    expect(matrix.locator("td[data-at='1 1']")).to_have_attribute("aria-selected", "true")
    expect(matrix.get_by_role("heading", level=4)).to_have_text("large LLM's label: spam · classifier's label: spam")
    assert matrix.locator("li").count() > 0
    expect(matrix.locator("li dl").first).to_contain_text(re.compile(r"large LLM\s*spam \(75 %\)"))
    assert matrix.locator("li").get_by_role("button").count() == 0
    expect(matrix.get_by_role("button", name="Undo")).to_be_hidden()
    assert store.human_labels() == {}
    assert notebook.serious_faults() == []
    save_screenshot(matrix, "matrix_test_narrow_dark")


def test_the_audit_goes_on_after_the_kernel_was_killed_and_ends_with_how_good_the_llm_is(
    open_notebook: OpenIt, case: Case, config: Path, store: LabelStore
) -> None:
    drawn = read_test_labels(RunFolder(case.output))["chunk_id"].tolist()[:40]
    keys = {"not spam": "1", "spam": "2"}
    notebook = open_notebook("03_test_labels", config).run_all()
    audit = shown(notebook, AUDIT)
    audit.locator(".nbh-text").click()
    for _ in range(3):
        label = case.truth[text_of(audit)]
        press(audit, keys[label], told=f"Stored: {label}.")
    expect(audit.locator("dl")).to_be_hidden()  # blind
    assert list(store.human_labels()) == drawn[:3]
    notebook.kill()
    assert list(store.human_labels()) == drawn[:3]
    audit.get_by_role("button", name="1 not spam").click()
    expect(audit.get_by_role("status")).to_contain_text("Run this cell again")
    audit = shown(notebook.run_all(), AUDIT)
    expect(audit.get_by_role("status")).to_have_text("")  # another one in its place
    expect(audit).to_contain_text("text 4 of 40 · 3 decided")
    save_screenshot(audit, "audit")
    audit.locator(".nbh-text").click()
    for place in range(3, 40):
        expect(audit).to_contain_text(f"text {place + 1} of 40 · {place} decided")
        audit.page.keyboard.press(keys[case.truth[text_of(audit)]])
    expect(audit.locator(".nbh-summary")).to_contain_text("is the person's on 40 of 40 test texts")
    expect(audit.locator("dl")).to_contain_text("large LLM")
    assert list(store.human_labels()) == drawn
    assert notebook.serious_faults() == []
    save_screenshot(audit, "audit_done")
