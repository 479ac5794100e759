"""The widgets worked by mouse and keyboard in JupyterLab, and what a click has done on disk."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import Case, words_of
from chat_server import DROP, ChatServer
from jupyter_lab import OpenNotebook
from playwright.sync_api import expect
from runs_made import prepare

from nbhelpers.classifier import Classifier
from nbhelpers.config_file import load_config
from nbhelpers.label_store import LabelStore
from nbhelpers.rounds import Rounds
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.stages import begin, find_stage, finish

Open = Callable[..., OpenNotebook]
SOON = 60_000


@pytest.fixture
def prepared(config: Path) -> Path:
    """The config, after notebooks 1 to 3."""
    made = load_config(config)
    run = RunFolder(made.path.output_dir)
    with LabelStore(run.labels) as store:
        prepare(made, run, store)
    _leave_stamp("03_test_labels", config)
    return config


@pytest.fixture
def trained(prepared: Path) -> Path:
    """The config, after notebook 4."""
    made = load_config(prepared)
    run = RunFolder(made.path.output_dir)
    with LabelStore(run.labels) as store:
        Rounds(made, run, store).run_until_done()
    _leave_stamp("04_train", prepared)
    return prepared


def _leave_stamp(name: str, config: Path) -> None:
    """As the notebook's last cell does."""
    made, stage = load_config(config), find_stage(name)
    run = RunFolder(made.path.output_dir)
    finish(stage, run, begin(stage, made, run))


def test_the_loop_and_the_class_balance(open_notebook: Open, prepared: Path, case: Case, server: ChatServer) -> None:
    notebook = open_notebook("04_train", prepared).run_all()
    panel, done = notebook.panel, len(case.report["iterations"])
    expect(panel.get_by_role("columnheader", name="share of the pool").first).to_be_visible()
    panel.get_by_role("button", name="weights").click()
    expect(panel.get_by_text("The next iteration uses balance: weights, unlike the config.")).to_be_visible()
    panel.get_by_role("button", name="random").click()
    expect(panel.get_by_text("The next iteration uses balance: weights and selection: random")).to_be_visible()
    curve, labels = panel.locator(".widget-html img[alt^='Learning curve']"), case.report["iterations"][-1]["labels"]
    points = curve.get_attribute("alt")
    expect(
        panel.get_by_text(f"So far: {labels} labels to learn from, {server.calls} LLM calls in all, $")
    ).to_be_visible()
    # 30 labels, and the most doubtful tenth again
    expect(panel.get_by_text(re.compile(r"The next iteration: 33 calls, \$0\.00\d+\."))).to_be_visible()
    one, stop = (panel.get_by_role("button", name=name) for name in ("One more iteration", "Stop after this one"))
    expect(stop).to_be_disabled()
    one.click()
    expect(panel.get_by_text(f"Iteration {done + 1}:")).to_be_visible(timeout=SOON)
    expect(one).to_be_enabled()
    last = case.report["iterations"][-1]
    assert (last["iteration"], last["balance"], last["by_hand"]) == (done + 1, "weights", True)
    with LabelStore(RunFolder(case.output).labels) as store:
        assert set(store.selection()["why"].tail(30)) == {"random"}
    expect(curve).not_to_have_attribute("alt", str(points))
    expect(curve).to_have_attribute("alt", re.compile(f"{last['train_size']} labels: .* Target 90.0 %"))
    expect(panel.get_by_text(f"So far: {labels + 30} labels to learn from, {server.calls} LLM calls")).to_be_visible()
    expect(panel.get_by_text(f"recall, iteration {done + 1} (weights)").first).to_be_visible()

    panel.get_by_role("button", name="Save to config").click()
    expect(panel.get_by_text("(config: weights)")).to_be_visible()
    saved = load_config(prepared).training
    assert (saved.balance, saved.selection) == ("weights", "random")
    assert notebook.serious_faults() == []
    notebook.looks("04_widgets")
    assert server.asked_twice == []


def test_stop_after_this_one_is_heard_while_an_iteration_is_at_work(
    open_notebook: Open, prepared: Path, case: Case, server: ChatServer
) -> None:
    never = ["system.stop_rule=lower_bound", "system.required_accuracy=0.99", "training.max_iters=9"]
    notebook = open_notebook("04_train", prepared, overrides=never).run_to("loop_widget(rounds)")
    panel, answer, go_on = notebook.panel, server.answer, threading.Event()
    until, stop = (panel.get_by_role("button", name=name) for name in ("Run until the target", "Stop after this one"))

    def answer_later(model: str, messages: list[dict[str, Any]]) -> Any:
        go_on.wait(SOON / 1000)
        return answer(model, messages)

    server.answer = answer_later
    until.click()
    stop.click()
    expect(panel.get_by_text("Stops once the iteration at work is done.")).to_be_visible()
    expect(stop).to_be_disabled()
    notebook.screenshot("04_stopping")
    assert len(case.report["iterations"]) == 1
    go_on.set()
    expect(until).to_be_enabled(timeout=SOON)
    expect(panel.get_by_text("Iteration 2:")).to_contain_text("The target is not reached yet.")
    assert (case.report["status"], len(case.report["iterations"])) == ("running", 2)


def test_it_runs_until_the_target_and_a_new_kernel_goes_on_where_the_killed_one_was(
    open_notebook: Open, prepared: Path, case: Case, server: ChatServer
) -> None:
    right, server.answer = server.answer, lambda model, messages: "Final label: not spam"
    few = ["training.train_set_size=12", "training.train_set_increment=60", "training.max_iters=5"]
    notebook = open_notebook("04_train", prepared, overrides=few).run_to("loop_widget(rounds)")
    panel, server.answer = notebook.panel, right
    one, until = (panel.get_by_role("button", name=name) for name in ("One more iteration", "Run until the target"))
    assert len(case.report["iterations"]) == 1
    until.click()
    expect(panel.get_by_text("The target is reached.")).to_be_visible(timeout=SOON)
    expect(until).to_be_disabled()
    done = len(case.report["iterations"])
    assert done > 1

    go_on = threading.Event()
    server.answer = lambda model, messages: go_on.wait(SOON / 1000) and DROP
    one.click()
    expect(panel.get_by_text("The next one is at work.")).to_be_visible()
    notebook.kill()
    go_on.set()
    server.answer = right
    notebook.run_to("loop_widget(rounds)")
    expect(panel.get_by_role("status").get_by_text(f"Iteration {done}:")).to_be_visible()
    one.click()
    expect(panel.get_by_role("status").get_by_text(f"Iteration {done + 1}:")).to_be_visible(timeout=SOON)
    expect(one).to_be_enabled()
    assert server.asked_twice == []
    calls, made = server.calls, (case.final() / "training.json").read_text("utf-8")
    notebook.restart().run_all()
    expect(panel.get_by_role("status").get_by_text(f"Iteration {done + 1}:")).to_be_visible()
    assert len(case.report["iterations"]) == done + 1
    assert (case.final() / "training.json").read_text("utf-8") == made
    assert server.calls == calls
    notebook.run_all()  # and so does the same kernel
    assert (server.calls, len(case.report["iterations"])) == (calls, done + 1)


def test_rules_are_edited_tried_and_kept(open_notebook: Open, trained: Path, case: Case, server: ChatServer) -> None:
    run, labels = RunFolder(case.output), case.report["iterations"][-1]["labels"]
    notebook = open_notebook("02_rules", trained).run_all()
    panel = notebook.panel
    area = panel.locator("textarea").first
    area.fill("1. Go by the words.\n2. Where in doubt, it is <b>not spam</b>.")
    area.blur()
    expect(panel.get_by_text("+2. Where in doubt, it is <b>not spam</b>.")).to_be_visible()
    stale = f"03_test_labels, 04_train; 50 test labels and {labels} labels to train on are then stale."
    expect(panel.get_by_text(f"To be done anew with these rules: {stale}")).to_be_visible()
    server.reset()
    panel.get_by_role("button", name="Try on 5 texts").click()
    expect(panel.get_by_text("Trying costs nothing: all is known.")).to_be_visible(timeout=SOON)
    assert server.calls == 10
    assert notebook.serious_faults() == []
    notebook.looks("02_widgets")
    panel.get_by_role("button", name="Discard the edit").click()
    expect(area).to_have_value("1. Go by the words.")
    area.fill("1. Go by the words alone.")
    area.blur()
    panel.get_by_role("button", name="Keep").click()
    expect(panel.get_by_text(f"Kept. To be done anew with these rules: {stale}")).to_be_visible()
    assert read_rules(run) == "1. Go by the words alone."
    server.reset()
    open_notebook("03_test_labels", trained).run_all()
    assert all("Go by the words alone." in json.dumps(body["messages"]) for body in server.requests)
    assert server.calls >= 50


def test_a_text_is_typed_and_a_threshold_is_set_by_keyboard(open_notebook: Open, trained: Path, case: Case) -> None:
    surest = Classifier.load(case.final())
    surest.rescale(temperature=2)  # so that there is a confidence above all of its own
    surest.save(case.final())
    notebook = open_notebook("05_predict", trained).run_all()
    keys, panel = notebook.page.keyboard, notebook.panel
    panel.get_by_label("text", exact=True).focus()
    for label, (word, *_) in zip(case.classes, words_of(2), strict=True):
        keys.press("Control+a")
        keys.type(f"today {word} people")
        decided = panel.get_by_role("status").filter(has_text=re.compile(rf"^{label}, with \d+\.\d%\.$"))
        expect(decided).to_be_visible(timeout=SOON)
        expect(panel.locator("span[title]").get_by_text(word, exact=True)).to_be_visible()
    expect(panel.get_by_text(f"Speak for spam: {word} (+")).to_be_visible()
    expect(panel.get_by_text("Left undecided below 0%: 100% of the test texts are decided")).to_be_visible()
    notebook.looks("05_widgets")
    assert notebook.serious_faults() == []

    keys.press("Tab")
    keys.press("End")
    expect(panel.get_by_text("Below 99% all 50 test texts are left undecided.")).to_be_visible()
    expect(panel.get_by_role("status").get_by_text("Undecided: spam is likeliest, with")).to_be_visible()
    keys.press("Home")
    keys.press("ArrowRight")
    expect(panel.get_by_text("Left undecided below 1%: 100% of the test texts are decided")).to_be_visible()
    expect(decided).to_be_visible()


def test_twenty_classes_are_worked_by_keyboard(open_notebook: Open, tmp_path: Path) -> None:
    case = Case(tmp_path / "many", [f"topic {i}, a name of usual length" for i in range(1, 21)], [15] * 20)
    with ChatServer(case.answer, models=["large", "small"]) as server:
        keyless = {"large_api_key": None, "small_api_key": None}
        config = case.write(server.url, api=keyless, training={"max_iters": 1, "train_set_size": 100})
        made = load_config(config)
        with LabelStore(RunFolder(case.output).labels) as store:
            prepare(made, RunFolder(case.output), store)
        notebook = open_notebook("04_train", config).run_all()
    queue = notebook.panel.get_by_role("region", name="Labels worth a person's minute")
    queue.locator(".nbh-text").click()
    for typed, chosen in (("13", 13), ("1\n", 1), ("topic 7\n", 7)):
        notebook.page.keyboard.type(typed)
        expect(queue.get_by_role("status")).to_have_text(f"Stored: topic {chosen}, a name of usual length.")
    with LabelStore(RunFolder(case.output).labels) as store:
        assert [label.split(",")[0] for label in store.human_labels().values()] == ["topic 13", "topic 1", "topic 7"]
    assert notebook.serious_faults() == []
    notebook.screenshot("04_twenty_classes")


def test_notebook_7_runs_all_five_and_has_their_widgets(open_notebook: Open, config: Path, case: Case) -> None:
    def opened(name: str) -> OpenNotebook:
        return open_notebook(name, config, overrides=["training.max_iters=1"], view="notebook").run_all()

    notebook = opened("01_ingest")
    notebook.screenshot("01_notebook_7")
    notebook.close()

    notebook = opened("02_rules")
    panel, area = notebook.panel, notebook.panel.locator("textarea").first
    area.fill("1. Go by the words alone.")
    area.blur()
    panel.get_by_role("button", name="Try on 5 texts").click()
    expect(panel.get_by_text("Trying costs nothing: all is known.")).to_be_visible(timeout=SOON)
    panel.get_by_role("button", name="Keep").click()
    expect(panel.get_by_text("Kept.")).to_be_visible()
    assert read_rules(RunFolder(case.output)) == "1. Go by the words alone."
    notebook.screenshot("02_notebook_7")
    notebook.close()

    notebook = opened("03_test_labels")
    audit = notebook.panel.get_by_role("region", name="Random audit of the test labels")
    audit.locator(".nbh-text").click()
    notebook.page.keyboard.press("1")
    expect(audit.get_by_role("status")).to_have_text("Stored: not spam.")
    expect(audit).to_contain_text("text 2 of 40 · 1 decided")
    notebook.screenshot("03_notebook_7")
    notebook.close()

    notebook = opened("04_train")
    panel = notebook.panel
    panel.get_by_role("button", name="weights").click()
    panel.get_by_role("button", name="One more iteration").click()
    expect(panel.get_by_text("Iteration 2:")).to_be_visible(timeout=SOON)
    assert case.report["iterations"][-1]["balance"] == "weights"
    queue = panel.get_by_role("region", name="Labels worth a person's minute")
    queue.locator(".nbh-text").click()
    notebook.page.keyboard.press("2")  # outside the widget Notebook makes a heading of it
    expect(queue.get_by_role("status")).to_have_text("Stored: spam.")
    notebook.looks("04_notebook_7")
    notebook.close()

    notebook = opened("05_predict")
    area = notebook.panel.get_by_label("text", exact=True)
    area.fill(words_of(2)[1][0])
    expect(notebook.panel.get_by_role("status").filter(has_text=re.compile(r"^spam, with"))).to_be_visible(timeout=SOON)
    notebook.screenshot("05_notebook_7")
