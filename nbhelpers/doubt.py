"""Which labels are likely wrong: what the LLM's confidence says, and what a classifier says that never saw that label.

The classifier is a logistic regression on frozen features, asked about each text by cross-validation. It and the LLM
are two raters, and each is believed as far as the labels bear it out: how sharp the one's probabilities should be, and
how the other's are to be corrected, is fitted to them. So a confidence that is always 0.99 does little harm. A wrong
label is taken to be any other class alike; errors that a classifier can learn, such as two classes that the LLM always
mixes up, look like the truth to it. Pure: no disk, network or clock. Nothing is relabelled or dropped here.

Source: the posterior of the true class under several raters, Dawid and Skene 1979 (doi:10.2307/2346806), and for what
`examine` calls likely wrong the thresholds of confident learning, Northcutt et al. 2021 (arXiv:1911.00068). Not with
cleanlab: on the same probabilities its ranking and its lists were no better, and it takes no confidence of the LLM.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.errors import ClassifierError

FOLDS = 5
LISTED = 2.0  # times the average doubt: more precise, at equal recall, than "confidence below its class's average"
KNOWS_NOTHING = 0.02  # probability that the classifier has no idea of a text: bounds what it alone can prove
CLASS_DOUBT = 0.25  # at most, of a class on average, in what is trained on
ENOUGH = 17  # texts of a class from which on it may be doubted so far
UNKNOWN_CONFIDENCE = 0.9  # where no confidence is known at all; the fit moves it
LOG_SHARPNESS = np.arange(-2.0, 3.0, 0.25)  # of the exponents of the classifier's probabilities; usually 1.4 +- 1.5
LOG_BELIEF = np.log([0.25, 0.5, 1.0])  # of the factors of a confidence's log-odds; usually 0 +- 0.7
SHIFT = np.arange(-4.0, 2.5, 0.5)  # added to these log-odds; usually 0 +- 1

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]


def doubt(
    features: np.ndarray[Any, Any],
    labels: Sequence[str],
    confidence: Sequence[float | None] | Floats,
    *,
    classes: Sequence[str],
    seed: int,
) -> Floats:
    """How likely each label is wrong.

    Args:
        features: (n, width), rows of length 1.
        labels: n class names, none missing.
        confidence: n, the LLM's probability of its label, 0 to 1; NaN or None where it gave none.
        classes: every class; some may have no text.
        seed: of the folds.
    Returns:
        n probabilities, 0 to 1. Few labels or one class only: what the confidence says.
    Raises:
        ClassifierError: a label that is no class, or not one row and confidence a label.
    """
    return _examine(features, labels, confidence, classes, seed)[1]


def soft_targets(
    features: np.ndarray[Any, Any],
    labels: Sequence[str],
    confidence: Sequence[float | None] | Floats,
    *,
    classes: Sequence[str],
    seed: int,
    certain: Sequence[bool] | Truths | None = None,
) -> Floats:
    """What to train on in place of bare labels: each label as far as it is believed, the rest as the classifier thinks.

    The labels of a class with few texts are all in doubt, for want of texts to learn it from rather than for the LLM's
    errors; so no class is doubted by more than CLASS_DOUBT on average, and the less, the fewer texts below ENOUGH it
    has: a class's only label is believed. Without that, 16 labels taught less than bare ones (few_labels.py).

    Args:
        features, labels, confidence, classes, seed: as in `doubt`.
        certain: n, which labels are beyond doubt, such as a person's; None: none is.
    Returns:
        (n, classes); a row sums to 1. Example: label "a" in doubt by 0.2 -> 0.8 for "a", 0.2 shared out to the others.
    Raises:
        ClassifierError: as in `doubt`.
    """
    proba, doubts = _examine(features, labels, confidence, classes, seed, certain)
    rows, given = np.arange(len(doubts)), _places(labels, classes)
    for place, n in zip(*np.unique(given, return_counts=True), strict=True):
        most, average = CLASS_DOUBT * min(1.0, (n - 1) / (ENOUGH - 1)), doubts[given == place].mean()
        if average > most:
            doubts[given == place] *= most / average
    targets = proba.copy()
    targets[rows, given] = 0.0
    others = targets.sum(axis=1, keepdims=True)
    targets = np.divide(targets, others, out=np.full_like(targets, 1 / max(1, len(classes) - 1)), where=others > 0)
    targets *= doubts[:, None]
    targets[rows, given] = 1.0 - doubts
    return np.asarray(targets, dtype=np.float64)


def large_quota(labels: int, share: float) -> int:
    """For how many of so many texts the large LLM is asked. Example: 10 labels, 0.25 -> 2."""
    return int(share * labels + 1e-9)  # 0.29 * 100 is 28.999...


def send_to_large(doubt: Floats, sent: Truths, share: float) -> Integers:
    """The texts to ask the large LLM for now, so that it is asked for this share of all texts so far, never more.

    Args:
        doubt: of all labels so far.
        sent: for which texts it was asked already; they are not sent again, and count.
        share: 0 to 1.
    Returns:
        Indices, most doubtful first, ties by index. Example: 80 labels, 10 of them sent, share 0.25 -> 10 indices.
    """
    quota = large_quota(len(doubt), share) - int(np.sum(sent))
    order = np.argsort(-np.asarray(doubt), kind="stable")
    return np.asarray(order[~np.asarray(sent)[order]][: max(0, quota)], dtype=np.int64)


def examine(
    features: np.ndarray[Any, Any],
    labels: Sequence[str],
    confidence: Sequence[float | None] | Floats,
    *,
    classes: Sequence[str],
    seed: int,
    certain: Sequence[bool] | Truths | None = None,
) -> pd.DataFrame:
    """What a classifier that never saw a label says of its text, and which labels are likely wrong.

    The classifier doubts a label where it gives another class at least the probability that it gives, on average, to
    texts labelled so. A label is likely wrong where its doubt is also at least LISTED times the average, or one half.

    Args:
        features, labels, confidence, classes, seed: as in `doubt`.
        certain: as in `soft_targets`; such a label has no doubt and is never likely wrong.
    Returns:
        A row a label: predicted (the classifier's class; the label itself where it knows nothing), probability (of
        predicted), suggested (the class for a label that is likely wrong, else missing), doubt.
    Raises:
        ClassifierError: as in `doubt`.
    """
    proba, doubts = _examine(features, labels, confidence, classes, seed, certain)
    given = _places(labels, classes)
    rows = np.arange(len(given))
    thresholds = np.full(len(classes), np.inf)
    for place in np.unique(given):
        thresholds[place] = proba[given == place, place].mean()
    confident = np.where(proba >= thresholds, proba, 0.0)
    suggested = np.where(confident.any(axis=1), confident.argmax(axis=1), given)
    enough = min(0.5, LISTED * doubts.mean()) if len(doubts) else 0.5
    likely = (suggested != given) & (doubts >= enough) & (doubts > 0)
    predicted = np.where(proba[rows, given] >= proba.max(axis=1), given, proba.argmax(axis=1))
    names = np.array(classes, dtype=object)
    return pd.DataFrame(
        {
            "predicted": names[predicted],
            "probability": proba[rows, predicted],
            "suggested": [names[i] if wrong else None for i, wrong in zip(suggested, likely, strict=True)],
            "doubt": doubts,
        }
    )


def _examine(
    features: np.ndarray[Any, Any],
    labels: Sequence[str],
    confidence: Sequence[float | None] | Floats,
    classes: Sequence[str],
    seed: int,
    certain: Sequence[bool] | Truths | None = None,
) -> tuple[Floats, Floats]:
    """The classifier's probabilities (n, classes), sharpened, and the doubt (n,), 0 where a label is certain."""
    if not len(features) == len(labels) == len(confidence):
        raise ClassifierError(
            f"{len(features)} rows, {len(labels)} labels and {len(confidence)} confidences: give one of each a text."
        )
    given, log_odds = _places(labels, classes), _log_odds(confidence)
    weights = np.ones(len(given))
    for _ in range(2):  # the second time, labels in doubt teach the classifier less
        logs = _cross_validated(features, given, weights, len(classes), seed)
        proba, doubts = _combine(logs, given, log_odds)
        weights = 1.0 - doubts
    return proba, doubts if certain is None else np.where(np.asarray(certain, dtype=bool), 0.0, doubts)


def _places(labels: Sequence[str], classes: Sequence[str]) -> Integers:
    place = {name: i for i, name in enumerate(classes)}
    unknown = {label for label in labels if label not in place}
    if unknown:
        raise ClassifierError(f"labels {sorted(map(str, unknown))} are not among the classes {list(classes)}.")
    return np.array([place[label] for label in labels], dtype=np.int64)


def _log_odds(confidence: Sequence[float | None] | Floats) -> Floats:
    p = np.clip(np.asarray(confidence, dtype=float), 1e-4, 1 - 1e-4)
    log_odds = np.log(p / (1 - p))
    missing = np.isnan(log_odds)
    usual = np.log(UNKNOWN_CONFIDENCE / (1 - UNKNOWN_CONFIDENCE)) if missing.all() else log_odds[~missing].mean()
    filled: Floats = np.where(missing, usual, log_odds)
    return filled


def _cross_validated(
    features: np.ndarray[Any, Any], given: Integers, weights: Floats, classes: int, seed: int
) -> Floats:
    """Log-probabilities (n, classes) by a classifier that did not see the row; -inf for a class that it did not see.

    Classes weigh the same whatever their texts: without it rare classes are always in doubt.
    """
    from sklearn.linear_model import LogisticRegression

    shuffled = np.random.default_rng(seed).permutation(len(given))
    fold = np.empty(len(given), dtype=int)
    fold[shuffled[np.argsort(given[shuffled], kind="stable")]] = np.arange(len(given)) % FOLDS  # each class spread
    logs = np.zeros((len(given), classes))
    for held_out in range(FOLDS):
        test, train = fold == held_out, fold != held_out
        seen = np.unique(given[train])
        if test.any() and len(seen) > 1:
            model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=300)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The number of unique classes")  # many classes, few texts
                model.fit(features[train], given[train], sample_weight=weights[train])
            logs[test] = -np.inf
            logs[np.ix_(test, seen)] = model.predict_log_proba(features[test])
    return logs


def _combine(logs: Floats, given: Integers, log_odds: Floats) -> tuple[Floats, Floats]:
    """The two raters' calibration that makes the given labels likeliest, and the posterior that it leads to."""
    if len(given) == 0:
        return logs, np.empty(0)
    rows, others = np.arange(len(given)), max(1, logs.shape[1] - 1)
    best, proba, doubts = -np.inf, logs, np.empty(0)
    for log_sharpness in LOG_SHARPNESS:
        sharp = np.exp(np.exp(log_sharpness) * (logs - logs.max(axis=1, keepdims=True)))
        sharp = (1 - KNOWS_NOTHING) * sharp / sharp.sum(axis=1, keepdims=True) + KNOWS_NOTHING / logs.shape[1]
        p = sharp[rows, given]
        for log_belief, shift in itertools.product(LOG_BELIEF, SHIFT):
            sure = 1 / (1 + np.exp(-np.exp(log_belief) * log_odds - shift))
            right, wrong = p * sure, (1 - p) * (1 - sure) / others
            unusual = ((log_sharpness - 1.4) / 1.5) ** 2 + (log_belief / 0.7) ** 2 + shift**2
            fit = np.log(right + wrong).sum() - unusual / 2
            if fit > best:
                best, proba, doubts = fit, sharp, wrong / (right + wrong)
    return proba, doubts
