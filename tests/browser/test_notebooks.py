"""The five notebooks in JupyterLab: every cell runs, the browser's console stays quiet, and the report adds up."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import PRICES, Case
from chat_server import ChatServer, shown_text
from jupyter_lab import OpenNotebook, save_screenshot
from playwright.sync_api import Page

NAMES = ["01_ingest", "02_rules", "03_test_labels", "04_train", "05_predict"]


def paid(server: ChatServer, case: Case, size: str | None = None) -> list[float]:
    """Dollars of each call; with a size, of each label by that LLM. The server counts four characters as a token."""
    found = []
    for body in server.requests:
        model, messages = body["model"], body["messages"]
        if size is None or (model == size and shown_text(messages) is not None):
            sent = sum(len(message["content"]) for message in messages) // 4 + 1
            received = len(str(case.answer(model, messages))) // 4 + 1
            price = [PRICES[f"cost_per_million_{model}_{way}"] for way in ("input", "output")]
            found.append((sent * price[0] + received * price[1]) / 1e6)
    return found


def test_all_notebooks_run_in_jupyterlab_and_the_report_says_what_they_cost(
    open_notebook: Callable[..., OpenNotebook],
    new_page: Callable[..., Page],
    case: Case,
    server: ChatServer,
    config: Path,
) -> None:
    for name in NAMES:
        notebook = open_notebook(name, config).run_all()
        notebook.screenshot(name)
        notebook.close()
    assert case.report["status"] == "target_reached"
    assert server.asked_twice == []

    page = new_page(offline=True)
    page.goto((case.output / "report.html").as_uri())
    cost = page.locator("#cost")
    save_screenshot(cost, "report_cost")
    all_calls = sum(paid(server, case))
    assert f"{server.calls} LLM calls" in cost.inner_text()
    assert float(cost.locator("strong").inner_text().strip("$")) == pytest.approx(all_calls, abs=0.0005)
    lines = cost.locator("tbody tr").all()
    rows = {line.locator("th").inner_text().split("\n")[0]: line.locator("td").all_inner_texts() for line in lines}
    for size in ("small", "large"):
        labels = paid(server, case, size)
        each = sum(labels) / len(labels)
        price, _, measured, money, _ = rows[f"{size} LLM"]
        assert float(price.strip("$")) == pytest.approx(1000 * each, abs=0.005)
        assert (measured, money) == (f"{len(labels)} texts", f"after {math.ceil(all_calls / each):,} texts")
    price, took, measured, *_ = rows["classifier"]
    assert (price, measured) == ("$0", "200 texts")
    assert re.fullmatch(r"[\d.]+ (ms|s)", took)
