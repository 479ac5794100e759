"""The loop's buttons: what can be clicked when, and that a click acts."""

from collections.abc import Callable

import pytest
from runs_made import WORDS, WordFits

from nbhelpers.loop_widget import _control, loop_widget
from nbhelpers.rounds import Rounds

Open = Callable[..., Rounds]


def parts(widget):
    """The three buttons, and what is said, drawn and spent."""
    _, buttons, says, _, curve, spending = widget.children
    return *buttons.children, says, curve, spending


def test_a_click_makes_an_iteration_and_draws_it(open_rounds: Open, fits: WordFits) -> None:
    fits.blind = [set(WORDS)] * 9
    rounds = open_rounds()
    rounds.begin()
    one, until, stop, says, curve, spending = parts(loop_widget(rounds))
    assert [button.disabled for button in (one, until, stop)] == [False, False, True]
    before = curve.value
    one.click()
    _control(rounds).wait()
    assert len(rounds.done) == 2
    assert [button.disabled for button in (one, until, stop)] == [False, True, True]
    assert "Iteration 2" in says.value
    assert curve.value != before
    assert 'alt="' in curve.value
    assert "30 labels" in spending.value


def test_shown_again_it_is_the_same_loop_and_stays_up_to_date(open_rounds: Open, fits: WordFits) -> None:
    fits.blind = [set(WORDS)] * 9
    rounds = open_rounds()
    rounds.begin()
    loop_widget(rounds)
    *_, says, _, _ = parts(loop_widget(rounds))
    rounds.run_until_done()  # a cell
    assert "Iteration 2" in says.value
    assert len(rounds.watchers) == 1


def test_what_an_error_says_is_no_markup(open_rounds: Open, fits: WordFits, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = open_rounds()
    rounds.begin()
    one, _, _, says, _, _ = parts(loop_widget(rounds))

    def fail() -> None:
        raise ValueError("<script>alert(1)</script>")

    monkeypatch.setattr(rounds, "step", fail)
    one.click()
    _control(rounds).wait()
    assert "<script>" not in says.value
    assert "&lt;script&gt;" in says.value
