import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.class_shares import estimate_shares, log_correction
from nbhelpers.errors import EvaluationError


def test_shares_are_the_counts_and_one_text_spread_evenly_with_exact_intervals():
    shares = estimate_shares(["ham", "spam", "ham", "ham"], ["ham", "spam"])
    assert shares.columns.tolist() == ["class", "n", "share", "low", "high"]
    assert shares["class"].tolist() == ["ham", "spam"]
    assert shares["n"].tolist() == [3, 1]
    assert shares["share"].tolist() == pytest.approx([3.5 / 5, 1.5 / 5])
    assert shares["low"].round(3).tolist() == [0.194, 0.006]  # Clopper-Pearson, 3 and 1 of 4
    assert shares["high"].round(3).tolist() == [0.994, 0.806]


def test_class_without_a_text_has_a_share_above_zero_and_an_interval_from_zero():
    shares = estimate_shares(["b"] * 9, ["a", "b", "c"]).set_index("class")
    assert shares["share"].tolist() == pytest.approx([1 / 30, 28 / 30, 1 / 30])
    assert shares.loc["a", "low"] == 0
    assert shares.loc["a", "high"] == pytest.approx(1 - 0.025 ** (1 / 9))
    assert shares.loc["b", "low"] == pytest.approx(0.025 ** (1 / 9))


def test_nothing_is_known_without_labels():
    shares = estimate_shares([], ["a", "b", "c", "d"])
    assert shares[["n", "share", "low", "high"]].to_numpy().tolist() == [[0, 0.25, 0, 1]] * 4


def test_missing_labels_are_left_out():
    labels = pd.Series(["a", None, "b", math.nan, "a"], dtype=object)
    pd.testing.assert_frame_equal(estimate_shares(labels, ["a", "b"]), estimate_shares(["a", "b", "a"], ["a", "b"]))


@pytest.mark.parametrize("classes", [2, 20])
@pytest.mark.parametrize("total", [1, 8, 40, 400])
def test_share_lies_in_its_interval_and_all_sum_to_one(classes, total):
    names = [f"class {i}" for i in range(classes)]
    for common in (0, total // 2, total):
        shares = estimate_shares([names[0]] * common + [names[-1]] * (total - common), names)
        assert shares["share"].sum() == pytest.approx(1)
        assert (shares["share"] > 0).all()
        assert (shares["low"] <= shares["share"]).all()
        assert (shares["share"] <= shares["high"]).all()


def test_interval_holds_the_true_share_of_a_rare_class():
    draws = np.random.default_rng(0).random((400, 60)) < 0.05
    held = 0
    for draw in draws:
        low, high = estimate_shares(np.where(draw, "rare", "other").tolist(), ["other", "rare"])[["low", "high"]].iloc[
            1
        ]
        held += low <= 0.05 <= high
    assert held >= 0.95 * len(draws)


def test_label_that_is_no_class_is_refused():
    with pytest.raises(EvaluationError, match="'weather'"):
        estimate_shares(["sport", "weather"], ["sport", "news"])


def bounds(*pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["low", "high"])


def test_correction_goes_to_the_nearest_share_that_the_interval_allows():
    correction = log_correction([50, 50], bounds((0.0, 1.0), (0.05, 0.2)))
    assert correction == pytest.approx([math.log(0.8 / 0.5), math.log(0.2 / 0.5)])
    raised = log_correction([90, 10], bounds((0.0, 0.7), (0.3, 1.0)))
    assert raised == pytest.approx([math.log(0.7 / 0.9), math.log(0.3 / 0.1)])
    left = log_correction([20, 20, 60], bounds((0.0, 0.05), (0.0, 0.22), (0.0, 1.0)))  # the 0.15 of the first class
    assert left == pytest.approx([math.log(0.05 / 0.2), math.log(0.22 / 0.2), math.log(0.73 / 0.6)])


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30)), min_size=2, max_size=9))
def test_corrected_shares_lie_in_their_intervals(texts):
    counts, seen = map(list, zip(*texts, strict=True))
    names = [str(place) for place in range(len(texts))]
    shares = estimate_shares([name for name, n in zip(names, seen, strict=True) for _ in range(n)], names)
    before = np.array(counts) / sum(counts)
    after = before * np.exp(log_correction(counts, shares))
    assert after.sum() == pytest.approx(1)
    assert (after >= shares["low"] - 1e-9).all()
    assert (after <= shares["high"] + 1e-9).all()
    changed = np.log(after / before)[(after > shares["low"] + 1e-9) & (after < shares["high"] - 1e-9)]
    assert changed == pytest.approx(changed[:1].repeat(len(changed)))  # by one factor


def test_nothing_is_corrected_that_chance_can_explain():
    assert log_correction([90, 10], bounds((0.6, 0.95), (0.05, 0.4))) == [0.0, 0.0]
    labels = ["a"] * 37 + ["b"] * 3
    assert log_correction([37, 3], estimate_shares(labels, ["a", "b"])) == [0.0, 0.0]  # the sample itself


def test_class_without_texts_is_left_as_it_is():
    correction = log_correction([60, 0, 40], bounds((0.0, 1.0), (0.2, 0.5), (0.0, 0.2)))
    assert correction[1] == 0
    assert correction[0] == pytest.approx(math.log(0.8 / 0.6))
    assert correction[2] == pytest.approx(math.log(0.2 / 0.4))


def test_a_share_at_its_limit_leaves_the_rest_to_the_others() -> None:
    found = log_correction([60, 0, 40], bounds((0, 0.3), (0.5, 0.9), (0, 0.1)))
    assert found == pytest.approx([math.log(0.75 / 0.6), 0, math.log(0.25 / 0.4)])
