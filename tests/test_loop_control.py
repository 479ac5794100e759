"""The loop in its thread: one more, until the target, stop after this one, and what a person is told."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import ChatServer, Fault
from runs_made import LABELLER, WORDS, WordFits, prepare, texts_of

from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.loop_control import ENDED, LoopControl
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder

MakeConfig = Callable[..., Config]
Open = Callable[..., Rounds]
ALL = set(WORDS)
SECONDS = 20

pytestmark = pytest.mark.usefixtures("quick_retries")


class Gate:
    """Holds the classifier's training until it is opened."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()

    def __call__(self, number: int) -> None:
        if number > 1:
            self.reached.set()
            assert self.open.wait(SECONDS)


@pytest.fixture
def gate(fits: WordFits) -> Gate:
    """Every iteration after the first waits before it trains; all classifiers are always wrong."""
    fits.before, fits.blind = Gate(), [ALL] * 9
    return fits.before


def begun(rounds: Rounds) -> LoopControl:
    rounds.begin()
    return LoopControl(rounds)


def test_one_more_iteration_is_done_beside_the_notebook(open_rounds: Open, gate: Gate) -> None:
    control = begun(open_rounds())
    seen: list[Any] = []
    control.tell = seen.append
    control.one_more()
    assert gate.reached.wait(SECONDS)
    view = control.view()
    assert (view.busy, view.may_step, view.may_run, view.may_stop) == (True, False, False, True)
    control.one_more()  # a second click while it is at work asks for nothing
    gate.open.set()
    control.wait()
    assert [i.number for i in control.rounds.done] == [1, 2]
    assert not control.view().busy
    assert seen[-1].says.startswith("Iteration 2: accuracy 0.0%")
    assert "goes beyond it" in seen[-1].says
    assert any(view.work and view.work[0] == "labelling (little)" for view in seen)
    assert any(view.work == ("training classifier_2", 1, 1) for view in seen)


def test_it_runs_until_an_end_and_then_only_one_at_a_time(open_rounds: Open, gate: Gate) -> None:
    gate.open.set()
    control = begun(open_rounds(max_iters=4))
    control.run_until_done()
    control.wait()
    assert (len(control.rounds.done), control.rounds.status) == (4, "max_iters")
    assert (control.view().may_step, control.view().may_run) == (True, False)
    control.one_more()
    control.wait()
    assert len(control.rounds.done) == 5


def test_where_no_text_is_left_there_is_no_more_to_do(open_rounds: Open, gate: Gate) -> None:
    gate.open.set()
    control = begun(open_rounds(train_set_increment=200, max_iters=2))
    assert (control.view().may_step, control.view().may_run) == (True, True)
    control.run_until_done()
    control.wait()
    assert control.rounds.status == "max_iters"
    assert (control.view().may_step, control.view().may_run) == (False, False)
    assert control.view().says.endswith(ENDED["no_more_chunks"])
    control.rounds.status = "target_reached"
    assert control.view().says.endswith(ENDED["target_reached"])


def test_stop_ends_after_the_iteration_at_work(open_rounds: Open, gate: Gate) -> None:
    control = begun(open_rounds(max_iters=6))
    control.run_until_done()
    assert gate.reached.wait(SECONDS)
    control.stop_after_this()
    assert "Stops once" in control.view().says
    assert not control.view().may_stop
    gate.open.set()
    control.wait()
    assert [i.number for i in control.rounds.done] == [1, 2]
    assert control.rounds.status is None
    control.run_until_done()  # and it goes on from there
    control.wait()
    assert len(control.rounds.done) == 6


def test_a_cell_that_runs_the_loop_meanwhile_repeats_nothing(
    open_rounds: Open, gate: Gate, fits: WordFits, server: ChatServer
) -> None:
    control = begun(open_rounds(max_iters=4))
    told = len(control.rounds.watchers)
    control.run_until_done()
    assert gate.reached.wait(SECONDS)
    threading.Timer(0.2, gate.open.set).start()
    report = control.rounds.run_until_done()
    control.wait()
    assert [row["iteration"] for row in report["iterations"]] == [1, 2, 3, 4]
    assert len(fits.made) == 4
    assert server.asked_twice == []
    assert told == 1
    assert len(control.view().report["iterations"]) == 4


def test_an_iteration_by_hand_that_fails_leaves_the_end_of_the_loop_as_it_was(
    open_rounds: Open, fits: WordFits, server: ChatServer
) -> None:
    fits.blind = [ALL] * 9
    control = begun(open_rounds(max_iters=1))
    server.answer = lambda model, messages: Fault(401, "no such key", code="invalid_api_key")
    control.one_more()
    control.wait()
    assert control.rounds.status == "max_iters"
    assert not control.view().may_run
    server.answer = LABELLER
    control.one_more()
    control.wait()
    assert [i.row["by_hand"] for i in control.rounds.done] == [False, True]


def test_an_error_is_one_sentence_and_the_next_try_goes_on(
    open_rounds: Open, fits: WordFits, server: ChatServer
) -> None:
    fits.blind = [ALL] * 9
    control = begun(open_rounds())
    server.answer = lambda model, messages: Fault(401, "no such key", code="invalid_api_key")
    control.one_more()
    control.wait()
    view = control.view()
    assert (view.failed, view.busy, view.may_step) == (True, False, True)
    assert "What was paid for is kept." in view.says
    assert "Traceback" not in view.says
    server.answer = LABELLER
    control.one_more()
    control.wait()
    assert not control.view().failed
    assert len(control.rounds.done) == 2


def test_an_error_that_nobody_expected_is_told_too(
    open_rounds: Open, fits: WordFits, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = begun(open_rounds())
    monkeypatch.setattr(control.rounds, "step", lambda: 1 // 0)
    control.one_more()
    control.wait()
    assert "ZeroDivisionError" in control.view().says


def test_the_next_one_is_planned_for_the_texts_that_the_loop_has(
    make_config: MakeConfig, server: ChatServer, run: RunFolder, store: LabelStore, fits: WordFits
) -> None:
    """With few documents of several chunks, one more iteration would not fit, but for chunks of test documents."""
    fits.blind = [set(WORDS)] * 3
    texts = texts_of(dict.fromkeys(WORDS, 50))

    def opened(increment: int) -> Rounds:
        sizes = {"train_set_size": 20, "train_set_increment": increment, "test_set_size": 15, "max_iters": 2}
        config = make_config(server.url, training={**sizes, "selection": "random"}, system={"chunk_size": 60})
        if not run.test_labels.exists():
            config.path.input_dir.mkdir()
            for number in range(30):
                lines = texts[5 * number : 5 * number + 5]
                (config.path.input_dir / f"{number}.txt").write_text("\n\n".join(f"{line}." for line in lines), "utf-8")
            prepare(config, run, store)
        return Rounds(config, run, store)

    rounds = opened(len(opened(10).pool.chunks) - 20)
    rounds.run_until_done()
    view = LoopControl(rounds).view()
    assert "No text is left to label." in view.says
    assert view.spending.endswith("The next iteration asks the LLM nothing new.")


def test_what_was_spent_and_what_the_next_one_asks(open_rounds: Open, gate: Gate) -> None:
    gate.open.set()
    price = {f"cost_per_million_{size}_{way}": 1000.0 for size in ("small", "large") for way in ("input", "output")}
    control = begun(open_rounds(cost=price))
    before = control.view().spending
    assert before.startswith("So far: 20 labels to learn from, 61 LLM calls in all, $")  # 1 rules, 40 test, 20 train
    assert "The next iteration: 10 calls, $" in before
    control.one_more()
    control.wait()
    assert control.view().spending.startswith("So far: 30 labels to learn from, 71 LLM calls in all, $")
    assert "The next iteration: 10 calls" in control.view().spending  # beyond max_iters, too
