import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import accuracy_interval
from nbhelpers.reliability import (
    MOST_BINS,
    TEXTS_PER_BIN,
    calibration_error,
    reliability_table,
    threshold_for,
    threshold_table,
)


def test_bins_hold_equally_many_texts_in_order_of_confidence() -> None:
    table = reliability_table([0.9, 0.5] * 15, [True, False] * 15)
    assert table["texts"].tolist() == [15, 15]
    np.testing.assert_allclose(table[["confidence", "right"]], [[0.5, 0], [0.9, 1]])


def test_each_bin_has_the_exact_interval_of_its_share() -> None:
    [row] = reliability_table([0.8] * 10, [True] * 9 + [False]).to_dict("records")
    assert (row["low"], row["high"]) == accuracy_interval(9, 10)


def test_equal_confidences_are_never_torn_apart() -> None:
    table = reliability_table([1.0] * 50 + [0.4] * 10, [True] * 60)
    assert table["texts"].tolist() == [10, 50]


def test_the_calibration_error_is_weighted_by_texts() -> None:
    # 20 texts at 0.5 of which 0.4 are right, 40 at 0.9 of which 0.6 are: (20 * 0.1 + 40 * 0.3) / 60
    right = [True] * 8 + [False] * 12 + [True] * 24 + [False] * 16
    table = reliability_table([0.5] * 20 + [0.9] * 40, right)
    assert calibration_error(table) == pytest.approx(14 / 60)


def test_without_texts_there_is_nothing_to_say() -> None:
    table = reliability_table([], [])
    assert table.empty
    assert math.isnan(calibration_error(table))


@pytest.mark.parametrize(
    ("confidence", "right", "wrong"),
    [([0.5], [True, False], "1 confidences and 2"), ([1.2], [True], "1.2"), ([math.nan], [True], "nan")],
)
def test_what_cannot_be_compared_is_refused(confidence: list[float], right: list[bool], wrong: str) -> None:
    with pytest.raises(EvaluationError, match=wrong):
        reliability_table(confidence, right)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=400))
def test_no_text_is_lost_and_bins_rise(given: list[tuple[float, bool]]) -> None:
    table = reliability_table(*zip(*given, strict=True))
    assert table["texts"].sum() == len(given)
    assert len(table) <= min(MOST_BINS, max(len(given) // TEXTS_PER_BIN, 1))
    assert table["confidence"].is_monotonic_increasing
    assert (table["right"] * table["texts"]).sum() == pytest.approx(sum(right for _, right in given))


def test_what_is_told_in_place_of_the_confidence_leaves_the_bins_as_they_are() -> None:
    right = [True] * 12 + [False] * 3 + [True] * 3 + [False] * 12
    told = [0.7] * 15 + [0.8, 0.2] * 7 + [0.5]
    table = reliability_table([0.9] * 15 + [0.6] * 15, right, said=told)
    assert table["texts"].tolist() == [15, 15]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.7])
    assert calibration_error(table) == pytest.approx((0.3 + 0.1) / 2)


def given_right(*groups: tuple[float, int, int]) -> tuple[list[float], list[bool]]:
    """Confidences and results of groups of texts: confidence, how many, how many of them right (the others first)."""
    said = [confidence for confidence, texts, _ in groups for _ in range(texts)]
    return said, [i >= texts - hits for _, texts, hits in groups for i in range(texts)]


@pytest.mark.parametrize(
    ("wanted", "confidence", "decided", "right"),
    [
        (0.9, 0.95, 20, 20),
        (0.8, 0.75, 40, 34),  # of 41 with one more wrong, 33 would do; the six wrong ones do not matter
        (0.6, 0.5, 60, 39),  # 37 would do
    ],
)
def test_a_threshold_decides_as_many_texts_as_the_precision_allows(
    wanted: float, confidence: float, decided: int, right: int
) -> None:
    found = threshold_for(wanted, *given_right((0.75, 20, 14), (0.5, 20, 5), (0.95, 20, 20)))
    assert found is not None
    assert (found.confidence, found.decided, found.precision) == (confidence, decided, right / decided)
    assert (found.precision_low, found.precision_high) == accuracy_interval(right, decided)
    assert found.undecided_share == pytest.approx(1 - decided / 60)


def test_a_threshold_is_enough_with_one_more_text_that_is_wrong() -> None:
    assert threshold_for(0.9, *given_right((0.95, 8, 8))) is None
    assert threshold_for(0.9, *given_right((0.95, 9, 9))) is not None
    assert threshold_for(0.99, *given_right((0.995, 98, 98))) is None
    assert threshold_for(0.99, *given_right((0.995, 99, 99))) is not None


def test_confidences_that_are_just_what_is_wanted_are_enough() -> None:
    found = threshold_for(0.9, *given_right((0.9, 10, 10), (0.6, 1, 0)))
    assert found is not None
    assert (found.confidence, found.decided, found.undecided_share) == (0.9, 10, pytest.approx(1 / 11))


def test_luck_below_what_the_confidences_promise_decides_nothing() -> None:
    found = threshold_for(0.9, *given_right((0.95, 20, 20), (0.6, 20, 20)))
    assert found is not None
    assert (found.confidence, found.decided) == (0.95, 20)


def test_texts_of_one_confidence_are_decided_together_or_not_at_all() -> None:
    assert threshold_for(0.9, *given_right((0.95, 30, 27))) is None
    found = threshold_for(0.8, *given_right((0.95, 30, 27)))
    assert found is not None
    assert found.decided == 30


def test_a_precision_that_nothing_gives_has_no_threshold() -> None:
    assert threshold_for(0.9, *given_right((0.9, 20, 0), (0.8, 20, 20))) is None
    assert threshold_for(0.9, [], []) is None


@pytest.mark.parametrize("wanted", [0.9, 0.95])
def test_on_new_texts_a_threshold_gives_on_average_what_was_wanted(wanted: float) -> None:
    """Of a calibrated classifier, whose precision above any confidence is known."""
    rng, reached = np.random.default_rng(0), []
    everything = np.sort(1 / (1 + np.exp(-rng.normal(1.8, 1.2, 100_000))))[::-1]
    above = everything.cumsum() / np.arange(1, len(everything) + 1)
    for _ in range(200):
        said = 1 / (1 + np.exp(-rng.normal(1.8, 1.2, 200)))
        found = threshold_for(wanted, said.tolist(), (rng.random(200) < said).tolist())
        if found is not None:
            reached.append(above[np.searchsorted(-everything, -found.confidence)])
    assert len(reached) > 100
    assert np.mean(reached) >= wanted
    assert np.mean(np.array(reached) < wanted) < 0.3


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.floats(0.1, 1))
def test_the_texts_above_a_threshold_have_the_precision(given: list[tuple[float, bool]], wanted: float) -> None:
    found = threshold_for(wanted, *zip(*given, strict=True))
    if found is not None:
        above = [right for confidence, right in given if confidence >= found.confidence]
        assert len(above) == found.decided
        assert sum(above) >= wanted * (len(above) + 1) - 1e-9


def test_thresholds_are_read_as_a_row_for_each_wanted_precision() -> None:
    found = threshold_for(0.9, *given_right((0.95, 40, 39), (0.5, 10, 0)))
    assert found is not None
    table = threshold_table([asdict(found)])
    assert table.iloc[0].tolist() == [0.9, 0.95, 0.975, pytest.approx(0.868), pytest.approx(0.999), 40, 0.2]
    assert table.iloc[1].tolist() == [0.95, *["–"] * 6]
    assert table["wanted"].tolist() == [0.9, 0.95, 0.99]
    assert set(threshold_table([]).drop(columns="wanted").to_numpy().ravel()) == {"–"}
