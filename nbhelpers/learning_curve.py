"""What another batch of labels is likely to bring, from the iterations so far. Pure.

A description for people, no part of the stop rule: it is made from test figures, and nothing is decided by it.

Source: the error of a classifier falls about as a power of the labels, Hestness et al. 2017 (arXiv:1712.00409). The
power is not known from a few points, so a middle one is used, and what the others would say is part of the margin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbhelpers.money import dollars

Floats = np.ndarray[Any, np.dtype[np.float64]]

POWER, POWERS = 0.5, (0.25, 1.0)  # accuracy = a - b / labels ** power
TRAINING_NOISE = 0.015  # least standard deviation of the accuracy between trainings on equally many labels
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Outlook:
    """Another `labels` labels: the accuracy changes by `gain`, give or take `margin` (95 %), for so many `dollars`.

    Both are of the mean over trainings; the next one may lie further off (see `TRAINING_NOISE`).
    """

    labels: int
    gain: float
    margin: float
    dollars: float | None

    def __str__(self) -> str:
        change = f"{100 * self.gain:+z.1f} ± {100 * self.margin:.1f} points"  # z: never "-0.0"
        return f"another {self.labels} labels: {change}, {dollars(self.dollars)}"


def extrapolate(sizes: Sequence[int], right: Sequence[Sequence[bool]], *, more: int) -> tuple[float, float] | None:
    """How the accuracy is likely to change with more labels.

    Args:
        sizes: labels at each iteration.
        right: for each iteration and test text, whether the classifier was right; all on the same texts.
        more: further labels.
    Returns:
        The expected change of the mean over trainings and its 95 % margin, as shares; None where all sizes are the
        same. The margin allows for the draw of the test set, for chance in the trainings so far, which is the larger
        the further the points lie off the curve, and for not knowing the curve: with two points it is wide.
        Example: half the texts right at 40 labels, three quarters at 160 -> +0.046 for another 80.
    """
    if len(set(sizes)) < 2:
        return None
    labels, hits = np.asarray(sizes, dtype=float), np.asarray(right, dtype=float)
    counts = _counts(labels, more, POWER)
    by_text = counts @ hits
    others = [float((_counts(labels, more, power) @ hits).mean()) for power in POWERS]
    variance = (
        by_text.var() / hits.shape[1]
        + max(TRAINING_NOISE**2, _scatter(labels, hits.mean(axis=1))) * float(counts @ counts)
        + ((max(others) - min(others)) / 2) ** 2
    )
    return float(by_text.mean()), NORMAL_95 * float(np.sqrt(variance))


def _scatter(labels: Floats, accuracy: Floats) -> float:
    """The variance of the points about the fitted line; 0 with two, which every line fits."""
    if len(labels) < 3:
        return 0.0
    x = labels**-POWER
    _, [squares], *_ = np.polyfit(x, accuracy, 1, full=True)
    return float(squares) / (len(labels) - 2)


def _counts(labels: Floats, more: int, power: float) -> Floats:
    """What each iteration's accuracy counts in the change, which goes on along the fitted line in labels ** -power."""
    x = labels**-power
    way = (labels.max() + more) ** -power - labels.max() ** -power
    return np.asarray(way * (x - x.mean()) / ((x - x.mean()) ** 2).sum())
