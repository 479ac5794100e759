"""Calibration: what it takes a confidence to, that it keeps the order, and that it leaves alone what it cannot know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.calibration import (
    LEAST_TEXTS,
    TEMPERATURE,
    Calibration,
    cross_calibrated,
    fit_calibration,
    fit_temperature,
)
from nbhelpers.errors import EvaluationError
from nbhelpers.reliability import calibration_error, reliability_table

shares = st.floats(0, 1)


def drawn(n: int, *, times: float, seed: int = 0) -> tuple[np.ndarray, list[bool]]:
    """Confidences whose log-odds are so many times as large as they should be, and what was right."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(1.5, 1.0, n)
    right = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    return 1 / (1 + np.exp(-times * log_odds)), right.tolist()


def error(confidence: np.ndarray, right: list[bool]) -> float:
    return calibration_error(reliability_table(confidence.tolist(), right))


def test_a_confidence_that_is_always_the_same_comes_to_the_share_that_is_right() -> None:
    found = fit_calibration([0.99] * 400, [True] * 320 + [False] * 80)
    assert found([0.99]) == pytest.approx([0.8], abs=0.01)
    assert found.texts == 400
    few = fit_calibration([0.99] * 40, [True] * 32 + [False] * 8)
    assert few([0.99]) == pytest.approx([0.81], abs=0.01)  # still pulled a little towards what it said


def test_the_curve_is_the_one_that_the_texts_were_drawn_by() -> None:
    found = fit_calibration(*drawn(20_000, times=2.0))
    assert found.slope == pytest.approx(1 / 2, rel=0.05)
    assert found.shift == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("times", [0.3, 3.0])
def test_texts_to_come_are_off_by_less(times: float) -> None:
    later, right = drawn(4000, times=times, seed=1)
    calibrated = fit_calibration(*drawn(100, times=times))(later)
    assert error(later, right) > 0.08 > 0.04 > error(calibrated, right)


def test_what_means_what_it_says_stays_nearly_as_it_is() -> None:
    confidence, right = drawn(2000, times=1.0)
    assert fit_calibration(confidence, right)(confidence) == pytest.approx(confidence, abs=0.05)


def test_few_texts_change_nothing_and_a_missing_confidence_stays_missing() -> None:
    few = fit_calibration([0.9] * (LEAST_TEXTS - 1), [False] * (LEAST_TEXTS - 1))
    assert few == Calibration()
    assert few([0.2, 1.0]).tolist() == [0.2, 1.0]
    enough = fit_calibration([0.9] * LEAST_TEXTS, [False] * LEAST_TEXTS)
    assert enough([0.9])[0] < 0.3
    for calibration in (few, enough):
        assert np.isnan(calibration([None, 0.5])).tolist() == [True, False]


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_never_certain(right: bool) -> None:
    sure = fit_calibration([1.0] * 20 + [0.0] * 20, [right] * 40)([0.0, 0.5, 1.0])
    assert np.all((sure > 0) & (sure < 1))
    assert sorted(sure) == sure.tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(shares, st.booleans()), min_size=LEAST_TEXTS, max_size=60), st.lists(shares, max_size=8))
def test_the_order_of_the_texts_stays(texts: list[tuple[float, bool]], others: list[float]) -> None:
    found = fit_calibration([c for c, _ in texts], [right for _, right in texts])
    ordered = found(sorted(others))
    assert np.all((ordered >= 0) & (ordered <= 1))
    assert np.all(np.diff(ordered) >= 0)


def test_the_honest_figure_calibrates_no_text_by_itself() -> None:
    confidence, right = [0.9] * 60, [True] * 54 + [False] * 6
    calibrated = cross_calibrated(confidence, right)
    changed = cross_calibrated(confidence, [False, *right[1:]])
    assert calibrated[0] == changed[0]
    assert calibrated[1] > changed[1]
    assert cross_calibrated([0.5] * 5, [True] * 5).tolist() == [0.5] * 5


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([0.5], [True, False], "1 confidences and 2 results"),
        ([float("nan")], [True], "missing or no share"),
        ([1.2], [True], "no share"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(confidence: list[float], right: list[bool], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        fit_calibration(confidence, right)


def test_temperature_undoes_what_made_a_classifier_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, size=(4000, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    places = [int(rng.choice(3, p=row)) for row in true]
    sharp = true**3 / (true**3).sum(axis=1, keepdims=True)  # as logits times three
    assert fit_temperature(sharp, places) == pytest.approx(3.0, rel=0.06)
    assert fit_temperature(true, places) == pytest.approx(1.0, rel=0.06)


def test_few_texts_move_the_temperature_little():
    sure = np.array([[0.99, 0.01]])
    assert fit_temperature(np.empty((0, 2)), []) == TEMPERATURE
    assert TEMPERATURE < fit_temperature(sure, [1]) < 1.1 * TEMPERATURE  # wrong: without the prior it would be endless
    assert 0.99 * TEMPERATURE < fit_temperature(sure, [0]) < TEMPERATURE
    assert fit_temperature(np.repeat([[0.9, 0.1]], 200, axis=0), [0] * 200) < 1.0  # always right: it was too unsure
    certain = np.array([[1.0, 0.0]])
    assert np.isfinite(fit_temperature(certain, [1]))


def test_texts_chosen_for_being_hard_count_for_less_in_the_temperature() -> None:
    probabilities = np.repeat([[0.9, 0.1]], 100, axis=0)
    places = [0] * 45 + [1] * 5 + [0] * 25 + [1] * 25  # of the first half nine in ten are right, as it says
    drawn = [True] * 50 + [False] * 50
    every, fair = fit_temperature(probabilities, places), fit_temperature(probabilities, places, drawn=drawn)
    assert TEMPERATURE < fair < every
    assert fit_temperature(probabilities, places, drawn=[True] * 100) == every


def test_few_texts_are_calibrated_by_the_others_too() -> None:
    assert cross_calibrated([0.99] * 20, [i % 2 == 0 for i in range(20)]).max() < 0.7
    assert cross_calibrated([0.99] * 19, [i % 2 == 0 for i in range(19)]).tolist() == [0.99] * 19
