"""How good are the LLM's labels: agreement of two LLMs, and accuracy against the truth from a few human-checked texts.

Only texts drawn at random support a claim about the truth; labels of texts that somebody picked are kept, not counted.

Source: prediction-powered inference, Angelopoulos et al. 2023 (doi:10.1126/science.adi6000), here with exact tests in
place of the normal approximation; how often classifier and LLM are wrong together is not known, and is allowed for in
the manner of Berger and Boos 1994 (doi:10.1080/01621459.1994.10476836). What it holds is measured in tests/benchmarks.
Tried, lost: the normal approximation (holds the truth down to 84 %), chi-square limits for the likelihood ratio (92 %),
one exact bound each for the three shares, joined (100 %, but wider than the audit alone), and exact enumeration at the
best-fitting nuisance value alone (95 % with nothing to spare).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbhelpers.errors import EvaluationError
from nbhelpers.evaluation import accuracy_interval

NUISANCE_SHARE = 0.2  # of alpha, spent on not knowing how often classifier and LLM are wrong together
EXACT_OUTCOMES = 1_500_000  # beyond so many possible audits (100 texts and more), a fixed draw of them stands in
DRAWS = 20_000
TIE = 1e-3  # log likelihood ratios nearer than this count as equal
STEP = 5e-4  # how finely an end of the interval is searched for

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two labellings of the same texts. `left_out` texts lack a label of one or the other and count nowhere else.

    kappa is NaN where both gave one and the same class to every text: chance alone would agree as much.
    confusion counts texts, the first's classes down, the second's across. mixed_up holds (first, second, texts) for
    each pair of different classes that occurs, the most frequent first.
    ceiling is the share again, under the name of what it limits: a classifier that learned the second labeller's
    habits perfectly would be shown at this share against the first one's labels. It is no hard limit: slips that
    follow no pattern are averaged out in training, so a classifier may be shown above it; habits are learned.
    """

    n: int
    left_out: int
    same: int
    share: float
    low: float
    high: float
    kappa: float
    confusion: pd.DataFrame
    mixed_up: list[tuple[str, str, int]]

    @property
    def ceiling(self) -> float:
        return self.share

    def __str__(self) -> str:
        pairs = "; ".join(f"{first} taken for {second} ({texts})" for first, second, texts in self.mixed_up[:3])
        kappa = "not defined, as all are of one class" if math.isnan(self.kappa) else f"{self.kappa:.2f}"
        missing = f" {self.left_out} more have not both labels." if self.left_out else ""
        return (
            f"The two LLMs agree on {self.same} of {self.n} texts ({self.share:.1%}, 95 % interval {self.low:.1%} to "
            f"{self.high:.1%}; Cohen's kappa {kappa}).{missing}\n"
            + (f"Mixed up most, large LLM first: {pairs}." if pairs else "They mix no classes up.")
        )


@dataclass(frozen=True)
class TruthEstimate:
    """Accuracy against the truth over n texts of which m were checked, beside what the m alone would say.

    both_wrong counts the checked texts on which classifier and large LLM agree, and a person does not.
    """

    accuracy: float
    low: float
    high: float
    n: int
    m: int
    both_wrong: int
    alone: float
    alone_low: float
    alone_high: float

    def __str__(self) -> str:
        return (
            f"Accuracy against the truth: {self.accuracy:.1%}, 95 % interval {self.low:.1%} to {self.high:.1%}, from "
            f"{self.m} texts that a person checked and the LLM's labels of all {self.n}.\n"
            f"Those {self.m} alone would say: {self.alone:.1%}, {self.alone_low:.1%} to {self.alone_high:.1%}."
        )


class Support(NamedTuple):
    """Chunk ids of human labels: those that support a claim, those after a gap in the draw, those outside the draw."""

    claim: list[str]
    after_gap: list[str]
    chosen: list[str]


def compare_raters(first: Sequence[str | None], second: Sequence[str | None], *, classes: Sequence[str]) -> Agreement:
    """Agreement of two LLMs on the same texts, with its exact 95 % interval.

    Args:
        first: a class name a text, None or NaN where it has no label; usually the large LLM's.
        second: the same for the same texts; usually the small LLM's.
        classes: every class, in the order to show them in.
    Raises:
        EvaluationError: lists of different length, no text that both labelled, or a label that is no class.
    Source: kappa, Cohen 1960, doi:10.1177/001316446002000104.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(first) != len(second):
        raise EvaluationError(f"{len(first)} and {len(second)} labels: give two for every text.")
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if not (pd.isna(a) or pd.isna(b))]
    if not pairs:
        raise EvaluationError(
            f"none of the {len(first)} texts is labelled by both: label the same ones with both LLMs."
        )
    unknown = {label for pair in pairs for label in pair} - set(classes)
    if unknown:
        raise EvaluationError(f"labels {sorted(map(str, unknown))} are not among the classes {list(classes)}.")
    names = list(classes)
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for a, b in pairs:
        counts[place[str(a)], place[str(b)]] += 1
    same = int(counts.trace())
    interval = accuracy_interval(same, len(pairs))
    one_class = counts.max() == same == len(pairs)
    off = [(a, b, int(counts[place[a], place[b]])) for a in names for b in names if a != b]
    return Agreement(
        n=len(pairs),
        left_out=len(first) - len(pairs),
        same=same,
        share=same / len(pairs),
        low=interval.low,
        high=interval.high,
        kappa=math.nan if one_class else float(cohen_kappa_score(*zip(*pairs, strict=True), labels=names)),
        confusion=pd.DataFrame(counts, index=pd.Index(names, name="first"), columns=pd.Index(names, name="second")),
        mixed_up=sorted((pair for pair in off if pair[2]), key=lambda pair: -pair[2]),
    )


def support_claim(drawn_ids: Sequence[str], given: Collection[str], *, declared: Collection[str] = ()) -> Support:
    """Which human labels support a claim about the truth.

    Those from the start of the draw up to its first text without a label: who skips the hard texts makes the rest look
    better. Besides, test texts that a person says were drawn at random in another way, which is taken on trust.

    Args:
        drawn_ids: the whole test set in the order of its draw, which is random, and in which people check it.
        given: the ids that have a human label; those outside the test set are `chosen`.
        declared: ids that a person drew at random (drawn = "random" in `read_human_labels`).
    """
    labelled, trusted, test = set(given), set(declared), set(drawn_ids)
    gap = next((place for place, name in enumerate(drawn_ids) if name not in labelled), len(drawn_ids))
    later = [name for name in drawn_ids[gap:] if name in labelled]
    return Support(
        [*drawn_ids[:gap], *(name for name in later if name in trusted)],
        [name for name in later if name not in trusted],
        [name for name in given if name not in test],
    )


def truth_interval(
    agrees: Sequence[bool], audited: Sequence[int], right: Sequence[bool], *, confidence: float = 0.95
) -> TruthEstimate:
    """Accuracy against the truth: the large LLM's labels of all test texts, put right by a person's labels of a few.

    accuracy = a q1 + (1 - a) q0, with a the share of texts where classifier and LLM agree, and q1, q0 the shares that
    are right among those and among the others. The interval holds every accuracy that an exact likelihood-ratio test
    does not reject: over all audits that could have come out, with a, q1 and q0 at their best fit to that accuracy and
    with the least favourable q1, q0 around it. It is usually narrower than the audit's alone; to take the narrower of
    the two after a look at both would hold the truth less often than it says, so show both and claim this one. With
    m = n they are the same.

    Args:
        agrees: for each of the n test texts, whether the classifier says what the large LLM says; False where the LLM's
            label is missing (the interval holds whatever these values mean, they only make it narrow).
        audited: places (from 0) in `agrees` of the m texts that were drawn at random and checked by a person.
        right: for each of those, whether the classifier says what the person says.
        confidence: between 0 and 1, ends excluded.
    Returns:
        Where no text of one kind was checked, the point takes the LLM's word for them (agreeing ones right, others
        wrong); the interval does not. Example: 184 of 200 agree; checked 37 agreeing, all right, and 3 others, 1 right
        -> 0.947, 0.872 to 0.985; the audit alone 0.95, 0.831 to 0.994.
    Raises:
        EvaluationError: no text was checked, a place twice or outside the test set, or lists of different length.
    """
    places, hits, agree = np.asarray(audited, dtype=int), np.asarray(right, dtype=bool), np.asarray(agrees, dtype=bool)
    n, m = len(agree), len(places)
    if m == 0 or m != len(hits) or len(set(places.tolist())) != m or places.min() < 0 or places.max() >= n:
        raise EvaluationError(
            f"{m} checked texts, {len(hits)} results, test set of {n}: give at least 1 text, each once, from the set."
        )
    alone = accuracy_interval(int(hits.sum()), m, confidence=confidence)
    on = agree[places]
    x1, w1, x0, w0 = (int(np.sum(kind)) for kind in (on & hits, on & ~hits, ~on & hits, ~on & ~hits))
    u1 = int(agree.sum()) - x1 - w1
    share = agree.mean()
    point = float(share * (x1 / (x1 + w1) if x1 + w1 else 1.0) + (1 - share) * (x0 / (x0 + w0) if x0 + w0 else 0.0))
    counts = np.array([[x1], [w1], [x0], [w0], [u1], [n - m - u1]], dtype=float)
    low, high = alone if m == n else (_end(edge, point, counts, 1 - confidence) for edge in (0.0, 1.0))
    return TruthEstimate(point, low, high, n, m, w1, float(hits.mean()), alone.low, alone.high)


def _end(edge: float, point: float, counts: Array, alpha: float) -> float:
    from scipy.optimize import brentq

    spent = NUISANCE_SHARE * alpha
    tiny = 1e-6
    start, inside = (min(max(value, tiny), 1 - tiny) for value in (edge, point))

    def excess(accuracy: float) -> float:
        return math.log(max(_p_value(accuracy, counts, spent), 1e-12) / (alpha - spent))

    if abs(start - inside) < STEP or excess(start) > 0:
        return edge
    return float(brentq(excess, start, inside, xtol=STEP))


# Counts of texts, one column an outcome: checked ones that agree and are right (x1), agree and are wrong (w1), do not
# and are right (x0), do not and are wrong (w0); unchecked ones that agree (u1), that do not (u0). With the accuracy
# fixed, s = P(agree | right) and t = P(agree | wrong) are free, and a = accuracy s + (1 - accuracy) t.


def _p_value(accuracy: float, counts: Array, spent: float) -> float:
    """Of the outcomes at this accuracy, the share that speaks against it as much as `counts` (6, 1) or more."""
    from scipy.stats import norm

    ratio, t, a = (float(value[0]) for value in _likelihood_ratio(accuracy, counts))
    wrong = counts[:4].sum() * (1 - accuracy)
    middle = (t * wrong + 0.5) / (wrong + 1)
    reach = norm.isf(spent / 2) * math.sqrt(middle * (1 - middle) / (wrong + 1))
    ts = np.clip(t + reach * np.linspace(-1, 1, 5), max(0, (a - accuracy) / (1 - accuracy)), min(1, a / (1 - accuracy)))
    both = (1 - accuracy) * ts
    cells = np.stack([a - both, both, accuracy - a + both, 1 - accuracy - both]).clip(0, 1)
    outcomes, chances = _outcomes(cells, a, int(counts[:4].sum()), int(counts[4:].sum()))
    milder = _likelihood_ratio(accuracy, outcomes)[0] < ratio - TIE
    return float(1 - chances[milder].sum(axis=0).min())


def _outcomes(cells: Array, a: float, m: int, unchecked: int) -> tuple[Array, Array]:
    """All likely outcomes (6, N) and their chances (N, k) under the k columns of `cells` (4, k)."""
    from scipy.special import gammaln, xlogy
    from scipy.stats import binom

    def likely(total: int, chance: Array) -> Array:
        return np.arange(binom.ppf(1e-6, total, chance.min()).clip(0), binom.isf(1e-6, total, chance.max()) + 1)

    u1 = likely(unchecked, np.array([a]))
    w1, x0, w0 = (likely(m, chance) for chance in cells[1:])
    if len(u1) * len(w1) * len(x0) * len(w0) > EXACT_OUTCOMES:
        rng, middle = np.random.default_rng(0), cells[:, cells.shape[1] // 2]
        checked = rng.multinomial(m, middle / middle.sum(), size=DRAWS).T
        agreeing = rng.binomial(unchecked, a, size=DRAWS)
        return np.vstack([checked, agreeing, unchecked - agreeing]).astype(float), np.full((DRAWS, 1), 1 / DRAWS)
    rest = np.stack([part.ravel() for part in np.meshgrid(w1, x0, w0, indexing="ij")])
    checked = np.vstack([m - rest.sum(axis=0), rest])[:, rest.sum(axis=0) <= m]
    logs = gammaln(m + 1) - gammaln(checked + 1).sum(axis=0)
    chances = np.exp(logs[:, None] + xlogy(checked[:, :, None], cells[:, None, :]).sum(axis=0))
    agree = binom.pmf(u1, unchecked, a)
    i, j = np.nonzero(np.outer(chances.max(axis=1), agree) > 1e-7)  # what is left out counts as speaking against
    return np.vstack([checked[:, i], u1[j], unchecked - u1[j]]), chances[i] * agree[j, None]


def _likelihood_ratio(accuracy: float, counts: Array) -> tuple[Array, Array, Array]:
    """log(best likelihood / best one at this accuracy), and t and a there, for each column of `counts` (6, N).

    With g the slope of the unchecked texts' log likelihood in a, the best s and t solve a quadratic each and grow with
    g, which falls with a: so a is found by halving.
    """
    from scipy.special import xlogy

    x1, w1, x0, w0, u1, u0 = counts

    def fit(a: Array) -> tuple[Array, Array]:
        g = u1 / a - u0 / (1 - a)
        return _root(accuracy * g, x1, x0), _root((1 - accuracy) * g, w1, w0)

    a = np.full(len(x1), 0.5)
    for halving in range(2, 25):
        s, t = fit(a)
        a += np.where(accuracy * s + (1 - accuracy) * t > a, 0.5**halving, -(0.5**halving))
    s, t = fit(a)
    agreed, others = x1 + w1, x0 + w0
    n, on = agreed + others + u1 + u0, agreed + u1
    best = xlogy(on, on / n) + xlogy(n - on, 1 - on / n)
    for part, whole in ((x1, agreed), (w1, agreed), (x0, others), (w0, others)):
        best += xlogy(part, part / np.maximum(whole, 1))
    fixed = xlogy(x1, accuracy * s) + xlogy(x0, accuracy * (1 - s)) + xlogy(u1, a)
    fixed += xlogy(w1, (1 - accuracy) * t) + xlogy(w0, (1 - accuracy) * (1 - t)) + xlogy(u0, 1 - a)
    return np.maximum(best - fixed, 0), t, a


def _root(slope: Array, yes: Array, no: Array) -> Array:
    """The share s from 0 to 1 with yes / s - no / (1 - s) + slope = 0."""
    yes = yes + 1e-6  # so that there is one where neither occurred
    b = slope - yes - no - 1e-6
    with np.errstate(divide="ignore"):
        return np.asarray(2 * yes / (np.sqrt(b * b + 4 * slope * yes) - b))
