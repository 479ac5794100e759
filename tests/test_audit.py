import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers import audit
from nbhelpers.audit import (
    TruthEstimate,
    compare_raters,
    support_claim,
    truth_interval,
)
from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import accuracy_interval

# Agreement of two raters


def test_agreement_and_kappa_of_a_hand_computed_case():
    # a/a 20, a/b 5, b/a 10, b/b 15: agreement 35/50; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa (0.7 - 0.5) / 0.5
    first = ["a"] * 25 + ["b"] * 25 + [None, "a", float("nan")]
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15 + ["a", None, None]
    found = compare_raters(first, second, classes=["a", "b", "never"])
    assert (found.n, found.left_out, found.same, found.share) == (50, 3, 35, 0.7)
    assert (found.low, found.high) == accuracy_interval(35, 50)
    assert found.kappa == pytest.approx(0.4)
    assert found.confusion.loc["a"].tolist() == [20, 5, 0]
    assert found.confusion.loc["b"].tolist() == [10, 15, 0]
    assert (found.confusion.index.name, found.confusion.columns.name) == ("first", "second")
    assert found.mixed_up == [("b", "a", 10), ("a", "b", 5)]
    assert found.ceiling == 0.7


def test_a_single_class_has_no_kappa_but_one_each_has():
    assert math.isnan(compare_raters(["a"] * 4, ["a"] * 4, classes=["a", "b"]).kappa)
    assert math.isnan(compare_raters(["a"], ["a"], classes=["a"]).kappa)
    assert compare_raters(["a"] * 4, ["b"] * 4, classes=["a", "b"]).kappa == 0
    assert compare_raters(["a", "b"], ["a", "b"], classes=["a", "b"]).kappa == 1
    assert compare_raters(["a", "b"], ["a", "a"], classes=["a", "b"]).kappa == 0  # no better than chance


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["a"], ["a", "b"], "1 and 2 labels"),
        ([], [], "none of the 0 texts"),
        ([None, "a"], ["a", None], "none of the 2 texts"),
        (["a", "x"], ["a", "b"], "'x'"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(first, second, message):
    with pytest.raises(EvaluationError, match=message):
        compare_raters(first, second, classes=["a", "b"])


labels = st.lists(st.tuples(*[st.sampled_from(["a", "b", "c", None])] * 2), min_size=1, max_size=40)


@settings(deadline=None)
@given(labels.filter(lambda pairs: any(None not in pair for pair in pairs)))
def test_no_text_is_lost_and_order_of_raters_does_not_change_the_agreement(pairs):
    first, second = zip(*pairs, strict=True)
    one, other = (compare_raters(x, y, classes=list("abc")) for x, y in ((first, second), (second, first)))
    assert one.n + one.left_out == len(pairs)
    assert one.same + sum(count for _, _, count in one.mixed_up) == one.n == one.confusion.to_numpy().sum()
    assert (one.share, one.low, one.high) == (other.share, other.low, other.high)
    assert one.kappa == pytest.approx(other.kappa, nan_ok=True)


# The draw, and what it supports


def test_only_the_draw_up_to_its_first_gap_supports_a_claim():
    order = list("abcdef")
    assert support_claim(order, ["b", "a", "d", "x"]) == (["a", "b"], ["d"], ["x"])
    assert support_claim(order, ["b", "c"]) == ([], ["b", "c"], [])
    assert support_claim(order, order) == (order, [], [])
    assert support_claim(order, ["a", "d", "e", "x"], declared=["d", "x"]) == (["a", "d"], ["e"], ["x"])


# The interval


@cache
def estimate(x1: int, w1: int, x0: int, w0: int, u1: int, u0: int, *, confidence: float = 0.95) -> TruthEstimate:
    """Checked: agreeing right, agreeing wrong, others right, others wrong; not checked: agreeing, others."""
    agrees = [True] * (x1 + w1) + [False] * (x0 + w0) + [True] * u1 + [False] * u0
    right = [True] * x1 + [False] * w1 + [True] * x0 + [False] * w0
    return truth_interval(agrees, range(len(right)), right, confidence=confidence)


def test_the_docstrings_example():
    found = estimate(37, 0, 1, 2, 147, 13)
    assert (found.n, found.m, found.both_wrong, found.alone) == (200, 40, 0, 0.95)
    assert found.accuracy == pytest.approx(0.92 + 0.08 / 3)
    assert (found.low, found.high) == pytest.approx((0.872, 0.985), abs=2e-3)
    assert (found.alone_low, found.alone_high) == accuracy_interval(38, 40)
    assert found.high - found.low < 0.75 * (found.alone_high - found.alone_low)


def test_the_order_of_the_texts_does_not_matter():
    rng = np.random.default_rng(0)
    order = rng.permutation(200)
    agrees, right = (
        np.array([True] * 37 + [False] * 3 + [True] * 147 + [False] * 13),
        np.array([True] * 38 + [False] * 2),
    )
    places = np.argsort(order)[:40]  # where the first 40 are now
    assert truth_interval(agrees[order], places, right) == estimate(37, 0, 1, 2, 147, 13)


SETTINGS = [  # for a classifier: accuracy, share where both are wrong alike, share where only the LLM is wrong, n, m
    (0.90, 0.010, 0.07, 200, 40),
    (0.95, 0.002, 0.02, 100, 30),
    (0.97, 0.010, 0.01, 300, 50),
]


@pytest.mark.parametrize(("truth", "both_wrong", "llm_wrong", "n", "m"), SETTINGS)
def test_interval_holds_the_truth_95_times_in_100(truth, both_wrong, llm_wrong, n, m):
    """What holds the truth is what its test does not reject there, so 300 audits need one p-value each."""
    rng, spent = np.random.default_rng(0), 0.05 * audit.NUISANCE_SHARE
    cells = [truth - llm_wrong, both_wrong, llm_wrong, 1 - truth - both_wrong]
    checked = rng.multinomial(m, cells, size=300)
    agree = rng.binomial(n - m, cells[0] + both_wrong, size=300)
    audits, times = np.unique(np.column_stack([checked, agree, n - m - agree]), axis=0, return_counts=True)
    p = np.array([audit._p_value(truth, row[:, None].astype(float), spent) for row in audits])
    assert times[p + spent > 0.05].sum() >= 0.94 * 300
    for row in audits[rng.choice(len(audits), 2)]:  # and the interval ends where the test says
        found = estimate(*map(int, row))
        inside = audit._p_value(truth, row[:, None].astype(float), spent) + spent > 0.05
        assert (found.low <= truth <= found.high) == inside
    both = [estimate(*map(int, row)) for row in audits[rng.choice(len(audits), 4, p=times / 300)]]
    widths = np.mean([(e.high - e.low, e.alone_high - e.alone_low) for e in both], axis=0)
    assert widths[0] < 0.85 * widths[1]


def test_a_liberal_interval_would_fail_the_simulation_above():
    """Without the LLM's mistakes, a share of agreement alone is no estimate of the truth."""
    rng = np.random.default_rng(0)
    agree = rng.binomial(200, 0.84, size=1000)  # the first of SETTINGS: 0.84 agree, 0.90 are right
    held = [accuracy_interval(int(k), 200).low <= 0.90 <= accuracy_interval(int(k), 200).high for k in agree]
    assert np.mean(held) < 0.5


@pytest.mark.parametrize(
    ("counts", "accuracy", "low", "high"),
    [
        ((40, 0, 0, 0, 160, 0), 1.0, None, 1.0),  # all right, no disagreement anywhere
        (
            (40, 0, 0, 0, 158, 2),
            0.99,
            None,
            1.0,
        ),  # none of those who disagree was checked: the LLM's word for the point
        ((0, 0, 0, 30, 0, 70), 0.0, 0.0, None),  # none right
        ((0, 40, 0, 0, 160, 0), 0.0, 0.0, None),  # always agreed and never right
        ((0, 0, 30, 0, 0, 70), 1.0, None, 1.0),  # never agreed and always right
        ((0, 0, 3, 27, 10, 60), 0.19, None, None),  # no agreeing text was checked: 0.1 + 0.9 * 0.1
        ((1, 0, 0, 0, 90, 9), 0.91, None, 1.0),
    ],
)
def test_at_the_edges_the_interval_stays_inside_and_around_its_point(counts, accuracy, low, high):
    found = estimate(*counts)
    assert found.accuracy == pytest.approx(accuracy)
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert found.low < found.high
    assert low is None or found.low == low
    assert high is None or found.high == high


def test_with_every_text_checked_it_is_the_audits_own_interval():
    found = estimate(37, 1, 1, 2, 0, 0)
    assert (found.accuracy, found.low, found.high) == (pytest.approx(38 / 41), found.alone_low, found.alone_high)


def test_a_large_audit_is_sampled_and_still_fast_and_repeatable():
    counts = (150, 30, 40, 80, 200, 100)
    found = estimate(*counts)
    assert found == estimate.__wrapped__(*counts)
    assert found.low == pytest.approx(0.597, abs=0.01)
    assert found.high == pytest.approx(0.701, abs=0.01)


def test_sampled_and_exact_agree(monkeypatch):
    exact = estimate(40, 2, 3, 5, 80, 20)
    monkeypatch.setattr(audit, "EXACT_OUTCOMES", 0)
    drawn = estimate.__wrapped__(40, 2, 3, 5, 80, 20)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.008)
    assert drawn != exact


audits = st.tuples(st.integers(0, 20), st.integers(0, 3), st.integers(0, 3), st.integers(0, 5), st.integers(0, 60))


@settings(deadline=None, max_examples=8, derandomize=True)
@given(audits.filter(lambda k: sum(k[:4]) > 0), st.integers(1, 40))
def test_interval_is_inside_0_and_1_around_its_point_and_wider_with_more_confidence(counts, others):
    found = estimate(*counts, others)
    sure = estimate(*counts, others, confidence=0.99)
    assert 0 <= sure.low <= found.low + audit.STEP <= found.accuracy + 2 * audit.STEP
    assert found.accuracy - 2 * audit.STEP <= found.high - audit.STEP <= sure.high <= 1
    assert found.low <= found.accuracy <= found.high


@pytest.mark.parametrize("counts", [(30, 2, 2, 6, 140, 20), (24, 1, 1, 4, 60, 10)])
def test_one_more_right_never_lowers_the_interval(counts):
    x1, w1, x0, w0, u1, u0 = counts
    before = estimate(*counts)
    for after in (estimate(x1 + 1, w1 - 1, x0, w0, u1, u0), estimate(x1, w1, x0 + 1, w0 - 1, u1, u0)):
        assert after.accuracy > before.accuracy
        assert after.low > before.low - audit.STEP
        assert after.high > before.high - audit.STEP


@pytest.mark.parametrize(
    ("n", "places", "right"),
    [(5, [], []), (5, [0, 1], [True]), (5, [1, 1], [True, True]), (5, [5], [True]), (5, [-1], [True])],
)
def test_impossible_audits_are_refused(n, places, right):
    with pytest.raises(EvaluationError, match=f"{len(places)} checked texts"):
        truth_interval([True] * n, places, right)


def test_an_impossible_confidence_is_refused():
    with pytest.raises(EvaluationError, match="confidence is 95"):
        truth_interval([True, False], [0], [True], confidence=95)


def test_the_truth_is_told_with_its_interval_beside_what_the_audit_alone_says():
    told = str(
        TruthEstimate(0.947, 0.872, 0.985, n=200, m=40, both_wrong=0, alone=0.95, alone_low=0.831, alone_high=0.994)
    )
    assert told == (
        "Accuracy against the truth: 94.7%, 95 % interval 87.2% to 98.5%, from 40 texts that a person checked and the "
        "LLM's labels of all 200.\nThose 40 alone would say: 95.0%, 83.1% to 99.4%."
    )
