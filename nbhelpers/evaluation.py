"""How good is a classifier: accuracy with exact intervals, per-class figures, confusion matrix, baseline.

Pure: no disk, no network, no clock. It compares two lists of class names and does not know where they come from;
whether the first is the truth or an LLM's opinion is for the caller to say.

Source: exact intervals after Clopper and Pearson 1934 (doi:10.1093/biomet/26.4.404); looks at one test set spend their
share of alpha as in Lan and DeMets 1983 (doi:10.1093/biomet/70.3.659), joined by the union bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbhelpers.errors import EvaluationError

CLEARLY = 0.05  # significance level of `clearly_better`


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one classifier on one labelled set.

    per_class has the columns class, precision, recall, f1, support, one row a class in the given order. A figure that
    has no denominator is NaN (recall of a class that never occurs, precision of one that is never predicted), not 0.
    confusion counts texts, true classes down, predicted classes across.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    correct: int
    macro_f1: float
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    majority_class: str
    majority_baseline: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists for JSON; NaN becomes None. Rows of `confusion` are in per_class's order."""
        rows = [{key: _json_safe(value) for key, value in row.items()} for row in self.per_class.to_dict("records")]
        return {
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_low,
            "accuracy_high": self.accuracy_high,
            "n": self.n,
            "correct": self.correct,
            "macro_f1": self.macro_f1,
            "majority_class": self.majority_class,
            "majority_baseline": self.majority_baseline,
            "per_class": rows,
            "confusion": self.confusion.to_numpy().tolist(),
        }


def accuracy_interval(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Exact (Clopper-Pearson) two-sided interval for a share.

    Args:
        correct: texts labelled right, 0 to `total`.
        total: texts in the test set, at least 1.
        confidence: between 0 and 1, ends excluded.
    Returns:
        Low and high ends, each 0 to 1. Example: 9 of 10 -> (0.555, 0.997).
    Raises:
        EvaluationError: `total` is below 1, `correct` is not between 0 and `total`, or `confidence` is no share.
    Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.
    """
    _check_counts(correct, total, confidence)
    alpha = (1 - confidence) / 2
    return Interval(_exact_low(correct, total, alpha), 1 - _exact_low(total - correct, total, alpha))


def lower_bound(correct: int, total: int, *, confidence: float = 0.95, look: int = 1) -> float:
    """Exact one-sided lower bound for a share, valid for every look at the same test set together.

    Look k gets alpha / (k (k + 1)) of alpha = 1 - confidence. These shares add up to alpha over any number of looks, so
    no maximum has to be fixed beforehand, and one more look never makes the earlier ones untrue. The price: the first
    look has half of alpha.

    Args:
        correct: texts labelled right, 0 to `total`.
        total: texts in the test set, at least 1.
        confidence: of all looks together.
        look: which look at this test set it is, from 1.
    Returns:
        0 to 1. Example: 96 of 100 at the first look -> 0.901.
    Raises:
        EvaluationError: as `accuracy_interval`, or `look` is below 1.
    Source: alpha spending, Lan and DeMets 1983, doi:10.1093/biomet/70.3.659; the series 1/(k(k+1)) telescopes to 1.
    """
    _check_counts(correct, total, confidence)
    return _exact_low(correct, total, _alpha_at(look, confidence))


def smallest_correct(total: int, target: float, *, look: int = 1, confidence: float = 0.95) -> int | None:
    """How many texts of a test set must be right for `lower_bound` to reach the target.

    Args:
        total: texts in the test set, at least 1.
        target: the accuracy to be shown, 0 to 1.
        look: which look at this test set it is, from 1.
        confidence: of all looks together.
    Returns:
        The smallest such number, or None if even all right would not do. Example: 100, 0.90 -> 96; 30, 0.90 -> None.
    Raises:
        EvaluationError: as `lower_bound`, or `target` is not between 0 and 1.
    """
    _check_counts(0, total, confidence)
    if not 0 <= target <= 1:
        raise EvaluationError(f"the target accuracy is {target}: give a share between 0 and 1.")
    alpha = _alpha_at(look, confidence)
    if _exact_low(total, total, alpha) < target:
        return None
    low, high = 0, total  # the bound grows with the number right, so halving finds the first that reaches the target
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _exact_low(middle, total, alpha) >= target else (middle + 1, high)
    return low


def what_can_be_shown(total: int, target: float) -> str:
    """One or two sentences on what a test set of this size can show.

    Args:
        total: texts in the test set, at least 1.
        target: the accuracy to be shown, 0 to 1.
    Returns:
        Example: 100, 0.90 -> "With 100 test texts and one look, 0.90 needs 96 right; at a fifth look it would be 99."
    Raises:
        EvaluationError: as `smallest_correct`.
    """
    shown = target_as_set(target)
    first, fifth = (smallest_correct(total, target, look=look) for look in (1, 5))
    if first is not None:
        later = "not even all would do" if fifth is None else f"it would be {fifth}"
        return f"With {total} test texts and one look, {shown} needs {first} right; at a fifth look {later}."
    if target == 1:
        return "No test set can show 1.00: lower system.required_accuracy."
    needed = math.ceil(math.log(_alpha_at(1, 0.95)) / math.log(target))
    return (
        f"{total} test texts cannot show {shown}, even all right: it takes {needed}. "
        "Raise training.test_set_size, or lower system.required_accuracy."
    )


def target_as_set(target: float) -> str:
    """With two decimals at least, and never rounded. Example: 0.9 -> 0.90, 0.975 -> 0.975."""
    return max(f"{target:.2f}", f"{target:g}", key=len)


def texts_to_hold(wanted: int, *, seen: int, total: int) -> int:
    """How large a random test set would have to be to hold so many texts of a class, rounded up to tens.

    Args:
        wanted: texts of the class.
        seen: texts of the class among the `total` there are now. With none, the class may still have a share of
            1 - 0.05 ** (1 / total) (95 % sure), and fewer texts than this cannot be expected to do.
        total: texts in the test set now, at least 1.
    Returns:
        Example: 10 wanted, 3 of 100 seen -> 340.
    """
    texts = wanted * total / seen if seen else wanted / (1 - 0.05 ** (1 / total))
    return 10 * math.ceil(texts / 10)


def evaluate(true: Sequence[str], predicted: Sequence[str], *, classes: Sequence[str]) -> Evaluation:
    """Compare predicted with true labels.

    Args:
        true: one class name a text; leave out texts whose label is missing, and say how many.
        predicted: one class name a text, in the same order.
        classes: every class, in the order to show them in.
    Returns:
        The figures. macro_f1 is the mean over the classes that occur in `true` or in `predicted`; of equally frequent
        classes the first in `classes` is the majority class.
    Raises:
        EvaluationError: no texts, lists of different length, or a label that is not one of `classes`.
    """
    if len(true) != len(predicted):
        raise EvaluationError(
            f"{len(true)} true and {len(predicted)} predicted labels: give one of each for every text."
        )
    if len(true) == 0:
        raise EvaluationError("there are no labelled texts to evaluate on. Run 03_test_labels first.")
    place = {name: i for i, name in enumerate(classes)}
    for kind, labels in (("true", true), ("predicted", predicted)):
        for label in labels:
            if label not in place:
                raise EvaluationError(f"{kind} label {label!r} is not one of the classes {list(classes)}.")
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    np.add.at(counts, ([place[label] for label in true], [place[label] for label in predicted]), 1)
    names = list(place)
    hits, support, guesses = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    f1 = _share(2 * hits, support + guesses)
    n, correct = int(counts.sum()), int(hits.sum())
    interval = accuracy_interval(correct, n)
    majority = int(support.argmax())
    return Evaluation(
        accuracy=correct / n,
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        n=n,
        correct=correct,
        macro_f1=float(np.nanmean(f1)),
        per_class=pd.DataFrame(
            {
                "class": names,
                "precision": _share(hits, guesses),
                "recall": _share(hits, support),
                "f1": f1,
                "support": support,
            }
        ),
        confusion=pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=pd.Index(names, name="predicted")),
        majority_class=names[majority],
        majority_baseline=int(support[majority]) / n,
    )


def clearly_better(first_right: Sequence[bool], second_right: Sequence[bool]) -> bool:
    """Whether the first of two classifiers is better than the second on the same texts, beyond chance at 0.05.

    Exact one-sided McNemar test: of the texts that only one of them got right, the first has too many for a fair coin.

    Args:
        first_right: for each text, whether the first classifier was right.
        second_right: the same for the second one.
    Returns:
        Example: 5 texts only the first got right and 0 only the second -> True (p = 1/32); 4 and 0 -> False.
    Raises:
        EvaluationError: lists of different length.
    Source: McNemar 1947, doi:10.1007/BF02295996.
    """
    if len(first_right) != len(second_right):
        raise EvaluationError(f"{len(first_right)} and {len(second_right)} results: give both for the same texts.")
    only_first = sum(bool(a) and not b for a, b in zip(first_right, second_right, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first_right, second_right, strict=True))
    differ = only_first + only_second
    at_least_as_many = sum(math.comb(differ, i) for i in range(only_first, differ + 1))
    return differ > 0 and at_least_as_many / 2**differ <= CLEARLY


def _exact_low(correct: int, total: int, alpha: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if correct == 0 else float(betaincinv(correct, total - correct + 1, alpha))


def _alpha_at(look: int, confidence: float) -> float:
    if look < 1:
        raise EvaluationError(f"look {look} at the test set: count looks from 1.")
    return (1 - confidence) / (look * (look + 1))


def _check_counts(correct: int, total: int, confidence: float) -> None:
    if total < 1 or not 0 <= correct <= total:
        raise EvaluationError(f"{correct} right of {total} texts: give at least 1 text, and 0 to that many right.")
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence is {confidence}: give a share between 0 and 1, such as 0.95.")


def _share(part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    shares = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _json_safe(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value
