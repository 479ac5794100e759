import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import (
    Interval,
    accuracy_interval,
    clearly_better,
    evaluate,
    lower_bound,
    smallest_correct,
    target_as_set,
    texts_to_hold,
    what_can_be_shown,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (9, 10, 0.5550, 0.9975),
        (0, 10, 0.0, 0.3085),
        (10, 10, 0.6915, 1.0),
        (5, 10, 0.1871, 0.8129),
        (1, 1, 0.025, 1.0),
        (95, 100, 0.8872, 0.9836),
    ],
)
def test_interval_is_clopper_and_pearsons(correct, total, low, high):
    assert accuracy_interval(correct, total) == pytest.approx((low, high), abs=1e-4)
    assert isinstance(accuracy_interval(correct, total), Interval)


@settings(deadline=None)
@given(counts)
def test_interval_solves_the_binomial_tails_it_is_defined_by(case):
    correct, total = case
    low, high = accuracy_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    if correct > 0:
        assert binom.sf(correct - 1, total, low) == pytest.approx(0.025, rel=1e-6)
    if correct < total:
        assert binom.cdf(correct, total, high) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize("truth", [0.6, 0.9, 0.97])
@pytest.mark.parametrize("total", [50, 200])
def test_interval_holds_the_truth_95_times_in_100(truth, total):
    drawn = np.random.default_rng(0).binomial(total, truth, size=2000)
    interval = {k: accuracy_interval(int(k), total) for k in set(drawn)}
    assert np.mean([interval[k].low <= truth <= interval[k].high for k in drawn]) >= 0.94


# How many must be right to show 0.90 with one-sided alpha 0.05 and 0.01. Half of alpha is the first look's, so
# confidence 0.90 spends 0.05 there and confidence 0.98 spends 0.01.
@pytest.mark.parametrize(
    ("total", "at_5_percent", "at_1_percent"),
    [(10, None, None), (50, 49, 50), (100, 96, 97), (200, 188, 190), (300, 279, 282), (400, 371, 374), (600, 553, 557)],
)
def test_smallest_correct_agrees_with_the_table_of_exact_counts(total, at_5_percent, at_1_percent):
    assert smallest_correct(total, 0.9, confidence=0.90) == at_5_percent
    assert smallest_correct(total, 0.9, confidence=0.98) == at_1_percent


def test_with_100_texts_and_one_look_90_percent_needs_96_right():
    assert smallest_correct(100, 0.9) == 96
    assert lower_bound(96, 100) == pytest.approx(0.9007, abs=1e-4)
    assert lower_bound(95, 100) < 0.9
    assert smallest_correct(100, 0.9, look=5) == 99  # P(98 or more | 0.9) = 0.0019 > 0.05 / 30
    assert smallest_correct(35, 0.9) is None
    assert smallest_correct(36, 0.9) == 36  # 0.9 ** 36 = 0.0225 <= 0.025 < 0.9 ** 35


@pytest.mark.parametrize(
    ("target", "said"), [(0.9, "0.90"), (0.95, "0.95"), (0.975, "0.975"), (0.999, "0.999"), (1.0, "1.00")]
)
def test_a_target_is_never_rounded(target, said):
    assert target_as_set(target) == said


@pytest.mark.parametrize(
    ("total", "target", "says"),
    [
        (100, 0.9, "With 100 test texts and one look, 0.90 needs 96 right; at a fifth look it would be 99."),
        (40, 0.9, "With 40 test texts and one look, 0.90 needs 40 right; at a fifth look not even all would do."),
        (35, 0.9, "35 test texts cannot show 0.90, even all right: it takes 36. "),
        (400, 0.975, "With 400 test texts and one look, 0.975 needs 397 right; at a fifth look it would be 399."),
        (3000, 0.999, "3000 test texts cannot show 0.999, even all right: it takes 3688. "),
        (500, 1.0, "No test set can show 1.00: lower system.required_accuracy."),
    ],
)
def test_it_says_beforehand_what_a_test_set_can_show(total, target, says):
    assert what_can_be_shown(total, target).startswith(says)


@pytest.mark.parametrize(
    ("seen", "total", "needed"),
    [(3, 100, 340), (5, 100, 200), (9, 200, 230), (10, 200, 200), (0, 100, 340), (0, 10, 40)],
)
def test_how_large_a_test_set_would_hold_ten_texts_of_a_class(seen, total, needed):
    # By hand: 10 / 0.03 = 333.3; none of 100 leaves a share of 1 - 0.05 ** 0.01 = 0.0295, none of 10 one of 0.259.
    assert texts_to_hold(10, seen=seen, total=total) == needed


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 0.999), st.integers(1, 20))
def test_smallest_correct_is_where_the_bound_crosses_the_target(total, target, look):
    needed = smallest_correct(total, target, look=look)
    reached = [lower_bound(k, total, look=look) >= target for k in range(total + 1)]
    assert needed == (reached.index(True) if any(reached) else None)


@settings(deadline=None)
@given(counts, st.integers(1, 30))
def test_each_further_look_asks_for_more(case, look):
    correct, total = case
    if correct > 0:
        assert lower_bound(correct, total, look=look + 1) < lower_bound(correct, total, look=look) < correct / total
    else:
        assert lower_bound(correct, total, look=look) == 0.0


def test_alpha_spent_over_all_looks_is_five_percent():
    spent = [binom.sf(79, 100, lower_bound(80, 100, look=look)) for look in range(1, 2001)]
    assert sum(spent) == pytest.approx(0.05 * (1 - 1 / 2001), rel=1e-6)


def test_ten_looks_at_classifiers_just_below_the_target_pass_at_most_five_times_in_100():
    rng, truth, target = np.random.default_rng(1), 0.899, 0.9
    needed = [smallest_correct(300, target, look=look) for look in range(1, 11)]
    drawn = rng.binomial(300, truth, size=(4000, 10))
    assert (drawn >= needed).any(axis=1).mean() <= 0.05
    naive = drawn >= 0.9 * 300  # comparing the accuracy itself passes nearly always: the test can tell the two apart
    assert naive.any(axis=1).mean() > 0.9


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(correct, total):
    for figure in (accuracy_interval, lower_bound):
        with pytest.raises(EvaluationError, match=f"{correct} right of {total}"):
            figure(correct, total)


def test_impossible_looks_targets_and_confidences_are_refused():
    with pytest.raises(EvaluationError, match="from 1"):
        lower_bound(9, 10, look=0)
    with pytest.raises(EvaluationError, match="target accuracy is 90"):
        smallest_correct(100, 90)
    with pytest.raises(EvaluationError, match="confidence is 95"):
        accuracy_interval(9, 10, confidence=95)


TRUE = ["a", "a", "a", "a", "b", "b", "b", "c"]
PREDICTED = ["a", "a", "a", "b", "b", "b", "c", "a"]


def test_figures_of_a_hand_computed_case():
    result = evaluate(TRUE, PREDICTED, classes=["a", "b", "c", "never"])
    assert (result.n, result.correct, result.accuracy) == (8, 5, 0.625)
    assert (result.accuracy_low, result.accuracy_high) == accuracy_interval(5, 8)
    assert result.confusion.to_numpy().tolist() == [[3, 1, 0, 0], [0, 2, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    table = result.per_class.set_index("class")
    assert table.loc["a"].tolist() == [3 / 4, 3 / 4, 3 / 4, 4]
    assert table.loc["b"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 3])
    assert table.loc["c"].tolist() == [0, 0, 0, 1]
    assert table.loc["never", ["precision", "recall", "f1"]].isna().all()
    assert table.loc["never", "support"] == 0
    assert result.macro_f1 == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)  # over the three classes that occur
    assert (result.majority_class, result.majority_baseline) == ("a", 0.5)


def test_figures_without_a_denominator_are_missing_not_zero():
    result = evaluate(["a", "b"], ["a", "c"], classes=["a", "b", "c"])
    table = result.per_class.set_index("class")
    assert math.isnan(table.loc["b", "precision"])  # never predicted
    assert (table.loc["b", "recall"], table.loc["b", "f1"]) == (0, 0)
    assert math.isnan(table.loc["c", "recall"])  # never true
    assert (table.loc["c", "precision"], table.loc["c", "f1"]) == (0, 0)
    assert result.macro_f1 == pytest.approx(1 / 3)


def test_to_dict_is_strict_json_and_keeps_every_figure():
    result = evaluate(TRUE, PREDICTED, classes=["c", "b", "a", 'say "né", 日本'])
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["accuracy"] == 0.625
    assert data["n"] == 8
    assert [row["class"] for row in data["per_class"]] == ["c", "b", "a", 'say "né", 日本']
    assert data["per_class"][3] == {
        "class": 'say "né", 日本',
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    assert data["confusion"][2] == [0, 1, 3, 0]
    assert data["majority_class"] == "a"


labelled = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40)


@settings(deadline=None)
@given(labelled)
def test_figures_agree_with_scikit_learn(pairs):
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    true, predicted = (list(labels) for labels in zip(*pairs, strict=True))
    result = evaluate(true, predicted, classes=list("abc"))
    assert result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))
    assert (result.confusion.to_numpy() == confusion_matrix(true, predicted, labels=list("abc"))).all()


def test_missing_and_unknown_labels_are_refused_and_no_texts_too():
    with pytest.raises(EvaluationError, match="true label None"):
        evaluate(["a", None], ["a", "a"], classes=["a", "b"])
    with pytest.raises(EvaluationError, match="predicted label 'x'"):
        evaluate(["a"], ["x"], classes=["a", "b"])
    with pytest.raises(EvaluationError, match="no labelled texts"):
        evaluate([], [], classes=["a", "b"])
    with pytest.raises(EvaluationError, match="2 true and 1 predicted"):
        evaluate(["a", "b"], ["a"], classes=["a", "b"])


# (only the first right, only the second right, verdict): p = 1/32, 1/16, 7/64... by hand from the binomial with 1/2
@pytest.mark.parametrize(
    ("only_first", "only_second", "better"),
    [(5, 0, True), (4, 0, False), (7, 1, True), (6, 1, False), (0, 5, False), (0, 0, False), (10, 10, False)],
)
def test_clearly_better_is_an_exact_sign_test_on_the_texts_that_differ(only_first, only_second, better):
    both = 20  # texts that both, or neither, got right say nothing
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * both
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * both
    assert clearly_better(first, second) is better
    assert clearly_better(np.array(first), np.array(second)) is better


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_two_classifiers_are_never_each_clearly_better(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    assert not (clearly_better(first, second) and clearly_better(second, first))


def test_clearly_better_needs_results_for_the_same_texts():
    with pytest.raises(EvaluationError, match="2 and 1 results"):
        clearly_better([True, False], [True])


def test_the_majority_class_is_that_of_the_labels_and_the_first_of_equals() -> None:
    found = evaluate([*"bbcca"], [*"aaaca"], classes=["a", "c", "b"])
    assert (found.majority_class, found.majority_baseline) == ("c", 0.4)


def test_texts_to_hold_are_rounded_up_to_tens_and_no_further() -> None:
    assert texts_to_hold(10, seen=1, total=49) == 490
