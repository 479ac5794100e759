"""Confidences that come to mean what they say: a curve with two numbers, fitted where it is known what was right.

log-odds of being right = slope * log-odds of the confidence + shift, with a slope above 0, so that the order of the
texts stays. The numbers are pulled towards 1 and 0, the harder the fewer texts there are: no text, or none that is
wrong, needs no case of its own. Pure: it takes any rater's confidences and does not know what "right" was judged by.

Source: Platt 1999, "Probabilistic outputs for support vector machines", with a normal prior in place of his smoothed
targets. Tried on 20, 40 and 100 simulated texts of six kinds, lost: Platt's own (off by more with 20 texts and where
the confidence is nearly right), and isotonic regression (off by half as much again, at times more than uncalibrated).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbhelpers.errors import EvaluationError

LEAST_TEXTS = 20  # with fewer, a curve is mostly chance
CERTAIN = 1e-4  # a confidence of 1 counts as this much less: nobody is infinitely sure
PRIOR = 1.0  # standard deviation of log(slope) and of shift
TEMPERATURE = 1.4  # what a classifier usually needs: of 1 to 1.6 the least error over five sets, 200 and 400 labels
TEMPERATURE_PRIOR = 0.15  # standard deviation of its logarithm around that; of 0.1 to 0.5 the least, within chance
CHOSEN = 0.25  # weight of a text of no random sample; of 1, 0.5, 0.25, 0.1 and 0 the least error over six sets
FOLDS = 10

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Calibration:
    """A curve from a confidence to the probability of being right; as it stands here it changes nothing.

    `texts` says how many it was fitted to.
    """

    slope: float = 1.0
    shift: float = 0.0
    texts: int = 0

    def __call__(self, confidence: Sequence[float | None] | Floats) -> Floats:
        """The probabilities, 0 to 1, in the same order; a missing confidence stays missing (NaN)."""
        given = np.asarray(confidence, dtype=float)
        if self.texts == 0:
            return given
        from scipy.special import expit

        probabilities: Floats = expit(self.slope * _log_odds(given) + self.shift)
        return probabilities


def fit_calibration(confidence: Sequence[float] | Floats, right: Sequence[bool]) -> Calibration:
    """The curve that fits these texts best.

    Args:
        confidence: for each text, the probability given to its label, 0 to 1, none missing.
        right: for each text, whether that label is right.
    Returns:
        With fewer than LEAST_TEXTS texts, the one that changes nothing. Example: 40 texts of confidence 0.99, 32 of
        them right -> a curve that takes 0.99 to about 0.81.
    Raises:
        EvaluationError: lists of different length, or a confidence that is no share.
    """
    given, hits = _checked(confidence, right)
    return _fit_curve(given, hits) if len(given) >= LEAST_TEXTS else Calibration()


def _checked(confidence: Sequence[float] | Floats, right: Sequence[bool]) -> tuple[Floats, np.ndarray[Any, Any]]:
    given, hits = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    if len(given) != len(hits):
        raise EvaluationError(f"{len(given)} confidences and {len(hits)} results: give both for every text.")
    if not np.all((given >= 0) & (given <= 1)):
        raise EvaluationError("a confidence is missing or no share: give numbers between 0 and 1, one a text.")
    return given, hits


def _fit_curve(given: Floats, hits: np.ndarray[Any, Any]) -> Calibration:
    from scipy.optimize import minimize
    from scipy.special import log_expit

    log_odds, sign = _log_odds(given), np.where(hits, 1.0, -1.0)

    def unlikely(numbers: Floats) -> float:
        fit = log_expit(sign * (np.exp(numbers[0]) * log_odds + numbers[1])).sum()
        return float((numbers**2).sum() / (2 * PRIOR**2) - fit)

    log_slope, shift = minimize(unlikely, [0.0, 0.0], method="L-BFGS-B").x
    return Calibration(float(np.exp(log_slope)), float(shift), len(given))


def cross_calibrated(confidence: Sequence[float] | Floats, right: Sequence[bool]) -> Floats:
    """Each confidence by a curve that was fitted without its text: what calibration is worth on texts to come.

    Args, Raises: as `fit_calibration`.
    """
    given, hits = _checked(confidence, right)
    fold, calibrated = np.arange(len(given)) % FOLDS, given.copy()
    if len(given) < LEAST_TEXTS:
        return calibrated
    for held_out in range(FOLDS):
        test = fold == held_out
        calibrated[test] = _fit_curve(given[~test], hits[~test])(given[test])
    return calibrated


def fit_temperature(
    probabilities: np.ndarray[Any, Any], places: Sequence[int], *, drawn: Sequence[bool] | None = None
) -> float:
    """The number to divide a classifier's logits by, so that its probabilities fit these texts best.

    It is pulled towards TEMPERATURE, the harder the fewer texts there are; without a text it is that.

    Args:
        probabilities: (texts, classes), as the classifier gives them; a row sums to 1.
        places: for each text, its class's column. Texts that the classifier was not trained on.
        drawn: which texts are of a random sample; one that was chosen for being hard says less of the others, and
            counts as CHOSEN of one. None: all are.
    Returns:
        Above 0; above 1 it makes the probabilities less sure.
    Source: Guo et al. 2017 (arXiv:1706.04599), with a normal prior on the logarithm.
    """
    if len(places) == 0:
        return TEMPERATURE
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, rows = np.log(np.clip(probabilities, 1e-12, None)), np.arange(len(places))
    weights = np.where(np.ones(len(places), dtype=bool) if drawn is None else drawn, 1.0, CHOSEN)

    def unlikely(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        unusual = (log_temperature - np.log(TEMPERATURE)) / TEMPERATURE_PRIOR
        return float(unusual**2 / 2 - (weights * logs[rows, list(places)]).sum())

    return float(np.exp(minimize_scalar(unlikely, bounds=(-3.0, 3.0), method="bounded").x))


def _log_odds(confidence: Floats) -> Floats:
    p = np.clip(confidence, CERTAIN, 1 - CERTAIN)
    log_odds: Floats = np.log(p / (1 - p))
    return log_odds
