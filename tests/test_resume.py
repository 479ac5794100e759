"""A new kernel takes up what an earlier one finished: iterations by hand, and what a person chose for them."""

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import ChatServer, shown_text
from runs_made import LABELLER, WordFits

from nbhelpers.label_store import LabelStore
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder

Open = Callable[..., Rounds]


def by_hand(rounds: Rounds) -> Rounds:
    """To the target in one iteration, then two more by hand, with a choice before each and one after."""
    rounds.begin()
    assert rounds.status == "target_reached"
    for balance in ("weights", "none"):
        rounds.choose(balance=balance)
        rounds.step()
    rounds.choose(balance="auto", selection="random")
    return rounds


def test_a_new_kernel_goes_on_where_the_last_one_was(
    open_rounds: Open, fits: WordFits, server: ChatServer, run: RunFolder
) -> None:
    before = by_hand(open_rounds())
    calls, made, report = server.calls, len(fits.made), run.report.read_bytes()
    again = open_rounds()
    again.begin()
    assert [(i.row["balance"], i.row["by_hand"]) for i in again.done] == [
        ("auto", False),
        ("weights", True),
        ("none", True),
    ]
    assert (again.balance, again.selection, again.status) == ("auto", "random", before.status)
    assert (server.calls, len(fits.made)) == (calls, made)
    assert run.iterations() == [1, 2, 3]
    again.begin()
    assert len(again.done) == 3
    assert len(run.report.read_bytes()) == pytest.approx(len(report), abs=40)  # seconds and cached answers differ


def test_a_kernel_that_dies_while_it_takes_up_loses_nothing(
    open_rounds: Open, fits: WordFits, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(open_rounds())
    dying = open_rounds()
    dying.step()
    assert run.iterations() == [1, 2, 3]
    again = open_rounds()
    again.begin()
    assert len(again.done) == 3


def test_iterations_that_would_have_to_be_paid_for_again_are_not_taken_up(
    open_rounds: Open, fits: WordFits, server: ChatServer, run: RunFolder
) -> None:
    by_hand(open_rounds())
    run.rules.write_text(run.rules.read_text("utf-8").replace("Go by the keywords", "Go by them"), "utf-8")
    server.reset()
    again = open_rounds()
    again.begin()
    assert [row["labels"] for row in again.report()["iterations"]] == [20]
    assert server.calls == 20
    assert run.iterations() == [1]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_iterations_with_answers_that_failed_for_good_are_taken_up(
    fails_at: int, open_rounds: Open, fits: WordFits, server: ChatServer, store: LabelStore
) -> None:
    """Each fifth text's first answer, or a further one, names no class however often it is asked for."""
    asked: Counter[str] = Counter()

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        text = shown_text(messages)
        if model != "little" or text is None or zlib.crc32(text.encode()) % 5:
            return LABELLER(model, messages)
        asked[text] += 1
        return "Final label: music" if asked[text] >= fails_at else LABELLER(model, messages)

    server.answer = answer
    samples = {"label_samples": 3, "answer_form": "plain"}
    by_hand(open_rounds(labeling=samples))
    failed = store.failures()
    assert set(failed["kind"]) == {"label" if fails_at == 1 else "sample"}
    made = len(fits.made)
    again = open_rounds(labeling=samples)
    again.begin()
    assert [i.row["balance"] for i in again.done] == ["auto", "weights", "none"]
    assert len(fits.made) == made


def test_a_choice_gives_way_to_a_config_that_was_changed_since(open_rounds: Open, fits: WordFits) -> None:
    by_hand(open_rounds())
    again = open_rounds(balance="weights")
    again.begin()
    assert [i.row["balance"] for i in again.done] == ["weights"] * 3
    assert (again.balance, again.selection) == ("weights", "random")


def test_a_selection_that_a_person_chooses_decides_which_texts_come_next(
    open_rounds: Open, fits: WordFits, store: LabelStore
) -> None:
    rounds = open_rounds(selection="auto")
    rounds.begin()
    rounds.choose(selection="random")
    rounds.step()
    assert store.selection()["why"].tail(10).eq("random").all()
    rounds.choose(selection="auto")
    rounds.step()
    assert store.selection()["why"].tail(10).eq("random").sum() == 2  # a fifth; the others are chosen
