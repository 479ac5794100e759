"""The widgets worked by mouse and keyboard in JupyterLab, and what a click has done on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Case
from chat_server import ChatServer
from jupyter_lab import OpenNotebook
from playwright.sync_api import expect
from runs_made import prepare

from nbhelpers.config import load_config
from nbhelpers.label_store import LabelStore
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder

Open = Callable[..., OpenNotebook]
SOON = 60_000


@pytest.fixture
def prepared(config: Path) -> Path:
    """The config, after notebooks 1 to 3."""
    made = load_config(config)
    run = RunFolder(made.path.output_dir)
    with LabelStore(run.labels) as store:
        prepare(made, run, store)
    return config


def test_the_loop_and_the_class_balance(open_notebook: Open, prepared: Path, case: Case, server: ChatServer) -> None:
    notebook = open_notebook("04_train", prepared).run_all()
    panel, done = notebook.panel, len(case.report["iterations"])
    panel.get_by_role("button", name="weights").click()
    expect(panel.get_by_text("The next iteration uses balance: weights, unlike the config.")).to_be_visible()
    one, stop = (panel.get_by_role("button", name=name) for name in ("One more iteration", "Stop after this one"))
    expect(stop).to_be_disabled()
    one.click()
    expect(panel.get_by_text(f"Iteration {done + 1}:")).to_be_visible(timeout=SOON)
    expect(one).to_be_enabled()
    last = case.report["iterations"][-1]
    assert (last["iteration"], last["balance"], last["by_hand"]) == (done + 1, "weights", True)
    expect(panel.get_by_text(f"recall, iteration {done + 1} (weights)").first).to_be_visible()

    panel.get_by_role("button", name="Save to config").click()
    expect(panel.get_by_text("(config: weights)")).to_be_visible()
    assert load_config(prepared).training.balance == "weights"
    notebook.looks("04_widgets")
    assert server.asked_twice == []


def test_a_new_kernel_goes_on_where_the_last_one_was(
    open_notebook: Open, prepared: Path, case: Case, server: ChatServer
) -> None:
    notebook = open_notebook("04_train", prepared).run_all()
    panel, done = notebook.panel, len(case.report["iterations"])
    panel.get_by_role("button", name="One more iteration").click()
    expect(panel.get_by_text(f"Iteration {done + 1}:")).to_be_visible(timeout=SOON)
    calls, made = server.calls, (case.final() / "training.json").read_text("utf-8")
    notebook.restart().run_all()
    expect(panel.get_by_role("status").get_by_text(f"Iteration {done + 1}:")).to_be_visible()
    assert len(case.report["iterations"]) == done + 1
    assert (case.final() / "training.json").read_text("utf-8") == made
    assert server.calls == calls
    notebook.run_all()  # and so does the same kernel
    assert (server.calls, len(case.report["iterations"])) == (calls, done + 1)


def test_rules_are_edited_tried_and_kept(open_notebook: Open, prepared: Path, case: Case, server: ChatServer) -> None:
    run = RunFolder(case.output)
    notebook = open_notebook("02_rules", prepared).run_all()
    panel = notebook.panel
    area = panel.locator("textarea").first
    area.fill("1. Go by the words.\n2. Where in doubt, it is <b>not spam</b>.")
    area.blur()
    expect(panel.get_by_text("+2. Where in doubt, it is <b>not spam</b>.")).to_be_visible()
    server.reset()
    panel.get_by_role("button", name="Try on 5 texts").click()
    expect(panel.get_by_text("Trying costs nothing: all is known.")).to_be_visible(timeout=SOON)
    assert server.calls == 10
    notebook.looks("02_widgets")
    panel.get_by_role("button", name="Discard the edit").click()
    expect(area).to_have_value("1. Go by the words.")
    area.fill("1. Go by the words alone.")
    area.blur()
    panel.get_by_role("button", name="Keep").click()
    expect(panel.get_by_text("Kept.")).to_be_visible()
    assert read_rules(run) == "1. Go by the words alone."
    server.reset()
    open_notebook("03_test_labels", prepared).run_all()
    assert all("Go by the words alone." in json.dumps(body["messages"]) for body in server.requests)
    assert server.calls >= 50
