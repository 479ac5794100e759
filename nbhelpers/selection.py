"""Which texts to label next, and which labelled texts validate.

A batch has a share at random, the next texts of one order of the whole pool, fixed by the seed: what is labelled holds
the order's beginning whole, so the class shares of the pool can be estimated from it (`random_part`). The other texts
are chosen: before there are labels, near the classes' descriptions and typical of many texts; then likely of a class
that is rare so far, typical of texts that no label tells about yet, as far as there are such, and where the classifier
is unsure. The validation set is the same share of every part of a batch, so it is no random sample of the pool unless
`selection: random`: it holds more hard texts and more of the rare classes, and accuracy on it is lower than on the
pool. It compares classifiers; what is true of the pool, the test set says.

Pure given its arrays: it touches no model, disk or clock. Random draws go by a hash of the chunk id, not by a random
number generator, so a text's place does not move when other texts come or go.

Tried, lost (labels to reach what 400 at random give, as a share of these; frozen features, five sets, 2 or 3 seeds
each; the rule then had 0.64): unsure texts spread among 4 or 8 times as many as wanted, 0.72 and 0.68; C = 1 in the
probe, 0.79. With 4 times as many, these made no difference that can be told from chance: a probe that weighs classes
alike, 0.70; no search for rare classes, 0.70; leaving out texts where the nearest labels are doubtful on average, 0.70,
but 1.10 on one set. Leaving out texts whose one nearest label is doubtful, with classes weighed alike, had 0.82.
More search for rare classes (before: a class was rare below half of an equal part, for at most a fifth of a batch) left
the accuracy after 240 labels as it was (0.736 for 0.733, six sets, 2 seeds), and raised macro-F1 (0.702 for 0.685).
More still does not help a class of 5 %: a class rare below an equal part had F1 0.785 for 0.793 (three sets, 2 seeds);
its texts sought by the last fine-tuned classifier, in place of the probe, 0.509 for 0.530 (scicite, 3 seeds), though 35
of 200 labels were of it, not 21: those it is sure of teach little.
The rule then had 0.58 on nine sets, 4 seeds. What came later, a share for texts that no label tells about, is measured
with the fine-tuned classifier (points of accuracy after 200 and 400 labels, 3 or 4 seeds a set): +2.9 and +2.2 on
clinc_domains, whose classes hold 150 intents and where the choice without it was no better than chance's; -1.3 and
-1.1 on newsgroups4; -0.3 and 0.0 on the mean of six others. Where their like are nearer by 0.15, not 0.2, or with a
fixed half of the batch, the others lost more.

Source: a random share because active selection alone chases odd texts and hides how the pool is made up; the ways to
choose are in `active`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.active import Floats, Integers, Truths, margins, probe, spread, typical, uncovered
from nbhelpers.errors import ConfigError

RANDOM = "random"  # why a text was drawn at random
RANDOM_SHARE = 0.2  # of a batch, with strategy "auto"
NEAREST_SHARE = 0.3  # of the chosen texts of a first batch: near the classes' descriptions; the others are typical ones
RARE_SHARE = 0.3  # of the chosen texts of a later batch, at most: likely of a class that is rare so far
NEAREST, UNSURE = 5, 2  # times as many texts as wanted, among which those near a description, or unsure, are spread
AROUND = 3  # labels nearest to a text
DOUBTFUL = 0.5  # doubt of a label; a text with only such labels around it looks unsure for their sake: it is not chased
RARE = 0.75  # of an equal part of the labels so far: a class with fewer is rare
KINDS = {  # of reasons, by the words that `choose` gives
    r" \(.*\)$": "",
    r"^near the description of .*": "near a class's description",
    r"^likely .*, which is rare so far$": "likely of a class that is rare so far",
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What active selection goes by; a row a candidate, in their order. See `weigh`.

    Attributes:
        classes: every class.
        features: of the candidates, by a frozen encoder, rows of length 1.
        class_features: of the classes' descriptions, by the same encoder.
        counts: labels so far by class.
        probabilities: of the candidates, a column a class; None before there are labels of two classes.
        in_doubt: which candidates have around them only labels that are likely wrong.
        labelled: features of the labelled texts.
    """

    classes: Sequence[str]
    features: Floats
    class_features: Floats
    counts: Integers
    probabilities: Floats | None
    in_doubt: Truths
    labelled: Floats


def validation_share(chunk_ids: Sequence[str], *, share: float = 0.2) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which texts are the validation set: about this share, decided by each chunk id alone.

    Args:
        chunk_ids: any texts; the answer for one does not depend on the others.
        share: 0 to 1. A text of a smaller share is in every larger one, too.
    Returns:
        One truth value a chunk id, in the same order.
    """
    return np.array([_uniform("validation", chunk_id) < share for chunk_id in chunk_ids], dtype=bool)


def random_order(chunk_ids: Sequence[str], seed: int, *, purpose: str = "order") -> list[str]:
    """The ids in a random order that does not depend on the order given, and keeps when ids are added or removed.

    Args:
        chunk_ids: distinct ids.
        seed: another seed gives another order.
        purpose: so does another purpose, so that two draws are independent.
    """
    return sorted(chunk_ids, key=lambda chunk_id: (_uniform(f"{purpose} {seed}", chunk_id), chunk_id))


def choose(
    candidates: pd.DataFrame,
    *,
    n: int,
    seed: int,
    strategy: str,
    evidence: Evidence | None = None,
    labelled_groups: Collection[int] = (),
) -> pd.DataFrame:
    """Choose the texts to label next, at most one of a group of near-duplicates until every group has one.

    Args:
        candidates: columns chunk_id and near_group, one row a text that is not labelled yet.
        n: how many; all of them if there are fewer.
        seed: of every random choice.
        strategy: "random", or "auto": a share of the batch at random, the rest by the evidence.
        evidence: None for a batch at random whatever the strategy.
        labelled_groups: near_group of every text that is labelled already.
    Returns:
        Columns chunk_id and why ("random" or, for example, "least sure (margin 0.03)"): those at random first.
    Raises:
        ConfigError: an unknown strategy.
    """
    if strategy not in ("auto", "random"):
        raise ConfigError(f"training.selection is {strategy!r}: choose 'auto' or 'random'.")
    place = {chunk_id: i for i, chunk_id in enumerate(random_order(candidates["chunk_id"].tolist(), seed))}
    table = candidates[["chunk_id", "near_group"]].reset_index(drop=True)
    table = table.assign(place=table["chunk_id"].map(place)).sort_values("place")
    ranked = _spread(table, labelled_groups)
    active = strategy == "auto" and evidence is not None and n < len(table)
    drawn = ranked.head(round(RANDOM_SHARE * n) if active else n).assign(why=RANDOM)
    if evidence is None or not active:
        return drawn[["chunk_id", "why"]].reset_index(drop=True)
    groups = [*labelled_groups, *drawn["near_group"]]
    free = table[~table["near_group"].isin(groups)].drop_duplicates("near_group")
    rows, wanted = free.index.to_numpy(), n - len(drawn)
    picked = (
        _pick_first(rows, evidence, wanted, seed)
        if evidence.probabilities is None
        else _pick_next(rows, evidence, evidence.probabilities, wanted, seed)
    )
    chosen = table.loc[list(picked)].assign(why=list(picked.values()))
    rest = _spread(table.drop(index=[*drawn.index, *chosen.index]), [*groups, *chosen["near_group"]])
    rest = rest.head(n - len(drawn) - len(chosen)).assign(why=RANDOM)  # where too few of the groups were left
    return pd.concat([drawn, chosen, rest])[["chunk_id", "why"]].reset_index(drop=True)


def kinds(why: pd.Series[str]) -> pd.Series[str]:
    """Why texts were chosen, as `choose` says it, without the particulars: few kinds, however many classes there are.

    Example: least sure (margin 0.02) -> least sure; near the description of spam -> near a class's description.
    """
    return why.replace(KINDS, regex=True)


def weigh(
    features: Floats,
    class_features: Floats,
    *,
    classes: Sequence[str],
    labelled: Floats,
    labels: Sequence[str],
    doubts: Sequence[float],
) -> Evidence:
    """The evidence of the labels so far: a logistic regression on the frozen features is asked about each candidate.

    Args:
        features, class_features, classes: as in `Evidence`.
        labelled: features of the texts that are trained on; none before the first batch.
        labels: their class names.
        doubts: how likely each of these labels is wrong, 0 to 1.
    """
    counts = np.array([list(labels).count(name) for name in classes], dtype=np.int64)
    if np.count_nonzero(counts) < 2:
        return Evidence(classes, features, class_features, counts, None, np.zeros(len(features), dtype=bool), labelled)
    probabilities = probe(labelled, labels, features, classes=classes)
    around = np.argsort(-(features @ labelled.T), axis=1)[:, :AROUND]
    in_doubt = np.asarray(doubts)[around].min(axis=1) >= DOUBTFUL
    return Evidence(classes, features, class_features, counts, probabilities, in_doubt, labelled)


def random_part(pool: pd.DataFrame, chosen: pd.DataFrame, *, seed: int) -> list[str]:
    """The chosen texts that are a random sample of the pool, whatever else was chosen.

    It is the pool's random order up to the last text that was drawn at random. Texts before it were all chosen, at
    random or otherwise, but for near-duplicates of a chosen text: that one stands for them, and is in the list again.

    Args:
        pool: columns chunk_id and near_group, labelled or not.
        chosen: columns chunk_id and why, as `choose` gave them, all in the pool.
        seed: with which they were chosen.
    """
    group = dict(zip(pool["chunk_id"], pool["near_group"], strict=True))
    why = dict(zip(chosen["chunk_id"], chosen["why"], strict=True))
    stands_for = {group[chunk_id]: chunk_id for chunk_id in reversed(list(why))}
    sample: list[str] = []
    drawn = 0
    for chunk_id in random_order(list(group), seed):
        spoken_for = chunk_id if chunk_id in why else stands_for.get(group[chunk_id])
        if spoken_for is None:
            break
        sample.append(spoken_for)
        drawn = len(sample) if why.get(chunk_id) == RANDOM else drawn
    return sample[:drawn]


def _pick_first(free: Integers, evidence: Evidence, n: int, seed: int) -> dict[int, str]:
    """Before there are labels: row number among the candidates -> why, for n of the rows that are free."""
    picked: dict[int, str] = {}
    classes = len(evidence.classes)
    wanted = max(round(NEAREST_SHARE * n), min(classes, n // 2))
    shares = _shared_out(wanted, np.ones(classes), seed=[seed])
    for place in np.flatnonzero(shares).tolist():
        rows = np.setdiff1d(free, list(picked))
        likeness = evidence.features[rows] @ evidence.class_features[place]
        best = rows[spread(evidence.features[rows], likeness, shares[place], among=NEAREST, seed=seed)]
        picked |= dict.fromkeys(best.tolist(), f"near the description of {evidence.classes[place]}")
    rows = np.setdiff1d(free, list(picked))
    middle = rows[typical(evidence.features[rows], n - len(picked), seed=seed)]
    return picked | dict.fromkeys(middle.tolist(), "typical of many texts")


def _pick_next(free: Integers, evidence: Evidence, probabilities: Floats, n: int, seed: int) -> dict[int, str]:
    """With a classifier: row number among the candidates -> why, for n of the rows that are free."""
    picked: dict[int, str] = {}
    missing = np.maximum(0, RARE * evidence.counts.mean() - evidence.counts)
    shares = _shared_out(
        min(round(RARE_SHARE * n), round(missing.sum())), missing, seed=[seed, int(evidence.counts.sum())]
    )
    for place in np.flatnonzero(shares).tolist():
        rows = np.setdiff1d(free, list(picked))
        unknown = evidence.counts[place] == 0  # to the classifier
        likely = evidence.features[rows] @ evidence.class_features[place] if unknown else probabilities[rows, place]
        best = rows[spread(evidence.features[rows], likely, shares[place], among=1, seed=seed)]
        picked |= dict.fromkeys(best.tolist(), f"likely {evidence.classes[place]}, which is rare so far")
    rows = np.setdiff1d(free, list(picked))
    new = rows[uncovered(evidence.features, evidence.labelled, seed=seed)[rows]]
    wanted = round(len(new) / max(1, len(rows)) * (n - len(picked)))  # as large a share as such texts have
    first = new[typical(evidence.features[new], wanted, seed=seed)]
    picked |= dict.fromkeys(first.tolist(), "unlike any labelled text")
    rows = np.setdiff1d(rows[~evidence.in_doubt[rows]], list(picked))
    margin = margins(probabilities[rows])
    best = spread(evidence.features[rows], -margin, n - len(picked), among=UNSURE, seed=seed)
    return picked | {int(rows[i]): f"least sure (margin {margin[i]:.2f})" for i in best}


def _shared_out(n: int, weights: Floats, *, seed: list[int]) -> Integers:
    """n texts shared out to classes by their weights; what is left over goes to the largest remainders, else by chance.

    Example: 4 texts, weights 0, 1, 1, 2 -> 0, 1, 1, 2; 1 text, weights 1, 1 -> 1, 0 or 0, 1.
    """
    exact = n * weights / max(float(weights.sum()), 1e-12)
    shares: Integers = np.floor(exact).astype(np.int64)
    chance = np.random.default_rng(seed).permutation(len(weights))
    shares[np.lexsort((chance, shares - exact))[: n - int(shares.sum())]] += 1
    return shares


def _spread(ranked: pd.DataFrame, groups: Collection[int]) -> pd.DataFrame:
    """The same rows, a near-duplicate group's second text after every group's first, and so on; else in rank order.

    `groups` has the group of every text that is chosen already.
    """
    before = ranked["near_group"].map(Counter(groups)).fillna(0)
    turn = before + ranked.groupby("near_group").cumcount()
    return ranked.loc[turn.sort_values(kind="stable").index]


def _uniform(purpose: str, chunk_id: str) -> float:
    """A number from 0 to 1, fixed by its arguments; each purpose has its own, so that draws are independent."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\n{chunk_id}".encode()).digest()[:8], "big") / 2**64
