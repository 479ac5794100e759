"""How large a part of the pool each class is, from labels of texts drawn at random.

Only a random sample of the pool says this. Not the actively chosen texts: they are chosen for being odd, or of a class
that is rare so far. Not the sealed test set either, random though it is: predictions corrected by its labels would be
measured on labels that made them. A share is that of the labels, the labeller's errors included; a class of 2 % among
labels of which 8 % are wrong looks larger than it is. Pure: no disk, network or clock.

Source: per class the exact interval of Clopper and Pearson 1934 (doi:10.1093/biomet/26.4.404); the share itself is the
posterior mean under one text spread evenly over the classes, the prior of Perks 1947.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import Interval, accuracy_interval


def estimate_shares(labels: Sequence[str | None], classes: Sequence[str], *, confidence: float = 0.95) -> pd.DataFrame:
    """The classes' shares of the pool, each with an interval of its own.

    Args:
        labels: of texts drawn at random from the pool; one that is missing (None, NaN) is left out.
        classes: every class, in the order to show them in.
        confidence: of each interval by itself. Of K intervals, all hold with at least 1 - K * (1 - confidence).
    Returns:
        Columns class, n (texts labelled so), share, low, high. Shares are above 0 and sum to 1, also where a class has
        no text, or there are no labels at all: then they are equal, from 0 to 1. Example: 3 of 4 labels in the first of
        two classes -> 0.7, from 0.194 to 0.994.
    Raises:
        EvaluationError: a label that is no class.
    """
    given: pd.Series[Any] = pd.Series(list(labels), dtype=object).dropna()
    unknown = sorted({str(label) for label in given} - set(classes))
    if unknown:
        raise EvaluationError(f"labels {unknown} are not among the classes {list(classes)}.")
    total = len(given)
    counts = given.value_counts().reindex(list(classes), fill_value=0).astype(int).tolist()
    ends = [accuracy_interval(n, total, confidence=confidence) if total else Interval(0.0, 1.0) for n in counts]
    return pd.DataFrame(
        {
            "class": list(classes),
            "n": counts,
            "share": [(n + 1 / len(classes)) / (total + 1) for n in counts],
            "low": [low for low, _ in ends],
            "high": [high for _, high in ends],
        }
    )


def log_correction(trained_on: Sequence[int], shares: pd.DataFrame) -> list[float]:
    """What to add to the logits of a classifier whose train set has other class shares than the pool.

    A share of the train set that its interval in the pool does not allow becomes the nearest that it does; all others
    change by one factor, so that they sum to 1, as far as their intervals allow. So hardly anything is corrected that
    chance can explain. Each interval is a 95 % one by itself: where shares are equal, and 40 of 200 texts are random,
    something is corrected in 1 of 100 runs with 2 classes, in 9 with 6, in 20 with 20 (in 4 where all are random).

    Args:
        trained_on: labelled texts of each class in the train set.
        shares: of the pool, as `estimate_shares` gives them, in the same order.
    Returns:
        A number a class; 0 for one without texts, of which the classifier knows nothing. Example: 50 and 50 texts, and
        at most 0.2 of the pool in the second class -> 0.47 and -0.92.
    Source: Saerens et al. 2002 (doi:10.1162/089976602753284446), with their estimate of the shares replaced by ours.
    """
    counts = np.array(trained_on, dtype=float)
    known = counts > 0
    before, correction = counts[known] / counts.sum(), np.zeros(len(counts))
    low, high = (shares[end].to_numpy()[known] for end in ("low", "high"))
    if not ((low <= before) & (before <= high)).all():
        from scipy.optimize import brentq

        most = 1 / before.min()  # from here on every share is at the end of its interval
        factor = brentq(lambda f: np.clip(f * before, low, high).sum() - 1, 0, most) if high.sum() > 1 else most
        after = np.clip(factor * before, low, high)
        correction[known] = np.log(after / after.sum()) - np.log(before)
    return [float(number) for number in correction]
