"""Do probabilities mean what they say? Of texts given 80 %, four in five should be right.

Pure. It takes any rater's confidences, an LLM's or a classifier's, and whether each was right; against what is for the
caller to say. Bins hold equally many texts, so that none rests on a handful; bins of
nearly the same confidence are joined.

Source: reliability diagram and expected calibration error (ECE), Guo et al. 2017, arXiv:1706.04599; bins of equal mass
after Nixon et al. 2019, arXiv:1904.01685.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import accuracy_interval

PRECISIONS = (0.9, 0.95, 0.99)  # for which a report gives a threshold
MOST_BINS = 10
TEXTS_PER_BIN = 15  # at least; fewer have an interval that says nothing
STEP = 0.05  # bins whose mean confidences lie in the same step are one: a point each would hide the others


@dataclass(frozen=True)
class Threshold:
    """Texts with at least this confidence are decided, the others are left.

    precision is the share of the decided texts that is right, with its exact 95 % interval.
    """

    wanted: float
    confidence: float
    precision: float
    precision_low: float
    precision_high: float
    decided: int
    undecided_share: float


def reliability_table(
    confidence: Sequence[float], right: Sequence[bool], *, said: Sequence[float] | None = None
) -> pd.DataFrame:
    """Texts in bins of rising confidence, and how many of each bin are right.

    Args:
        confidence: for each text, the probability given to its label, 0 to 1.
        right: for each text, whether that label is right.
        said: for each text, what is told in place of its confidence, such as a calibrated one; the bins stay the same.
    Returns:
        A row a bin: texts, confidence (mean), right (share), low and high (its exact 95 % interval). Empty where there
        are no texts.
    Raises:
        EvaluationError: lists of different length, or a confidence that is no share.
    """
    if len(confidence) != len(right):
        raise EvaluationError(f"{len(confidence)} confidences and {len(right)} results: give both for every text.")
    table = pd.DataFrame({"confidence": np.asarray(confidence, dtype=float), "right": np.asarray(right, dtype=bool)})
    if not table["confidence"].between(0, 1).all():
        wrong = table.loc[~table["confidence"].between(0, 1), "confidence"].iloc[0]
        raise EvaluationError(f"a confidence is {wrong}: give shares between 0 and 1, and leave out missing ones.")
    table["said"] = table["confidence"] if said is None else np.asarray(said, dtype=float)
    bins = min(MOST_BINS, max(len(table) // TEXTS_PER_BIN, 1))
    # Ranks of equal confidences are equal; they are cut, not the values, which may differ in the last digit only.
    rank = table["confidence"].rank(method="average")
    place = np.ceil(rank / max(len(table), 1) * bins)
    step = (table.groupby(place)["confidence"].transform("mean") / STEP).round()
    rows = []
    for _, part in table.groupby(step):
        interval = accuracy_interval(int(part["right"].sum()), len(part))
        rows.append((len(part), part["said"].mean(), part["right"].mean(), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["texts", "confidence", "right", "low", "high"])


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: how far confidence and share right lie apart, on average over the texts.

    Args:
        table: as `reliability_table` gives it.
    Returns:
        0 to 1; NaN without a text. Example: all texts said 0.9 and 0.8 of them right -> 0.1.
    """
    if table.empty:
        return float("nan")
    return float(np.average((table["confidence"] - table["right"]).abs(), weights=table["texts"]))


def threshold_for(precision: float, confidence: Sequence[float], right: Sequence[bool]) -> Threshold | None:
    """From which confidence on labels are right at least so often, so that the others may be left undecided.

    The lowest confidence that does on these texts would often be lucky, and not do on others. So it has to be enough
    if one more text were decided, and wrong, and the confidences themselves must promise as much.

    Args:
        precision: the share of right labels that is wanted, 0 to 1.
        confidence, right: as for `reliability_table`; calibrated.
    Returns:
        The lowest such confidence among the texts', with what it gives on these texts; None where none gives it, as
        with fewer than precision / (1 - precision) texts: 99 for 0.99.
        Example: 0.9 right ten times, then 0.6 wrong, and 0.9 wanted -> 0.9, which leaves one text in eleven undecided.
    Raises:
        EvaluationError: as `reliability_table`.

    Source: one more loss, as in conformal risk control, Angelopoulos et al. 2022 (arXiv:2208.02814).
    """
    reliability_table(confidence, right)  # its checks
    order = np.argsort(-np.asarray(confidence, dtype=float), kind="stable")
    said, hits = np.asarray(confidence, dtype=float)[order], np.asarray(right, dtype=bool)[order].cumsum()
    texts = np.arange(1, len(said) + 1)
    last_of_its_confidence = np.append(said[:-1] > said[1:], True)[: len(said)]
    enough = (hits >= precision * (texts + 1)) & (said.cumsum() / texts >= precision - 1e-9)
    good = np.flatnonzero(last_of_its_confidence & enough)
    if not len(good):
        return None
    place = good[-1]
    interval = accuracy_interval(int(hits[place]), int(texts[place]))
    return Threshold(
        wanted=precision,
        confidence=float(said[place]),
        precision=float(hits[place] / texts[place]),
        precision_low=interval.low,
        precision_high=interval.high,
        decided=int(texts[place]),
        undecided_share=float(1 - texts[place] / len(said)),
    )


def threshold_table(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Thresholds as they are read: a row for each of PRECISIONS, "–" where no confidence gives it.

    Args:
        found: the fields of a Threshold each, as in report.json.
    """
    table = pd.DataFrame(found, columns=[field.name for field in fields(Threshold)]).set_index("wanted")
    table = table.reindex(pd.Index(PRECISIONS, name="wanted")).round(3).astype({"decided": "Int64"}).astype(object)
    return table.where(table.notna(), "–").reset_index()
