"""Ways to pick texts by what a frozen encoder and a classifier say of them: arrays in, row numbers out.

How many texts are picked which way, and which may be picked at all, is decided in `selection`. Quick for 20,000 rows.
Pure: no disk, network or clock; every random choice takes a seed.

Source: typical texts, Hacohen et al. 2022 (arXiv:2202.02794); small margins spread over clusters, Citovsky et al. 2021
(arXiv:2107.14263); texts that labels do not cover yet, after Yehuda et al. 2022 (arXiv:2205.11320); the margin is the
best cheap measure for transformers, Schröder et al. 2022 (arXiv:2107.05687).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

C = 2.0  # of the probe's logistic regression
NEIGHBOURS = 20  # of a cluster's text, that say how typical it is
CLUSTERED = 5000  # rows at most, drawn at random, among which clusters are sought: the same in a quarter of the time
CROWD = 300  # of a cluster, texts among which the most typical one is sought: the nearest to its centre
SEEN = 2000  # rows at most, drawn at random, among which a text's like are sought
LIKE = 5  # a text's like: so many nearest rows
GAP = 0.2  # cosine by which these are nearer, on average, than any labelled text, where no label tells about it

Floats = np.ndarray[Any, np.dtype[Any]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]
Integers = np.ndarray[Any, np.dtype[np.int64]]


def probe(features: Floats, labels: Sequence[str], rows: Floats, *, classes: Sequence[str]) -> Floats:
    """Class probabilities by a logistic regression on frozen features, classes as common as their labels.

    Args:
        features: of the labelled texts, rows of length 1.
        labels: their class names, of at least two classes.
        rows: features of the texts to ask about.
        classes: every class; one without a label has probability 0.
    Returns:
        (rows, classes), rows sum to 1.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=300)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes")  # many classes, few texts
        model.fit(features, np.asarray(labels, dtype=str))
    proba = np.zeros((len(rows), len(classes)))
    proba[:, [list(classes).index(name) for name in model.classes_]] = model.predict_proba(rows)
    return proba


def typical(features: Floats, n: int, *, seed: int) -> Integers:
    """n rows that many others are like, each the most typical of its cluster; large clusters first."""
    from sklearn.cluster import KMeans

    if n < 1 or len(features) == 0:
        return np.empty(0, dtype=np.int64)
    few = np.sort(np.random.default_rng(seed).permutation(len(features))[: max(CLUSTERED, n)])
    clusters = KMeans(min(n, len(few)), n_init=1, max_iter=30, random_state=seed).fit(features[few])
    found = []
    for cluster in np.argsort(-np.bincount(clusters.labels_), kind="stable"):
        rows = few[clusters.labels_ == cluster]
        if len(rows):
            crowd = rows[np.argsort(-(features[rows] @ clusters.cluster_centers_[cluster]), kind="stable")[:CROWD]]
            likeness = np.sort(features[crowd] @ features[crowd].T, axis=1)[:, -(NEIGHBOURS + 1) :]
            found.append(crowd[likeness.mean(axis=1).argmax()])
    return np.array(found, dtype=np.int64)


def uncovered(features: Floats, labelled: Floats, *, seed: int) -> Truths:
    """Which rows have their like around them, but no labelled text among these: no label tells about them yet.

    Args:
        features: (n, width), rows of length 1.
        labelled: features of the labelled texts, at least one.
        seed: of the rows among which their like are sought.
    """
    few = np.random.default_rng(seed).permutation(len(features))[:SEEN]
    if len(few) <= LIKE:
        return np.zeros(len(features), dtype=bool)
    likeness = features @ features[few].T
    likeness[few, np.arange(len(few))] = -1.0  # to itself
    near = np.partition(likeness, -LIKE, axis=1)[:, -LIKE:].mean(axis=1)
    return np.asarray(near - (features @ labelled.T).max(axis=1) > GAP)


def spread(features: Floats, scores: Floats, n: int, *, among: int, seed: int) -> Integers:
    """n rows with high scores, and different: of the `among` * n highest, the highest of each of n clusters."""
    from sklearn.cluster import KMeans

    order = np.argsort(-scores, kind="stable")[: max(0, among * n)]
    if len(order) <= n:
        return order
    clusters = KMeans(n, n_init=1, random_state=seed).fit_predict(features[order])
    return np.asarray(order[np.sort(np.unique(clusters, return_index=True)[1])])


def margins(probabilities: Floats) -> Floats:
    """How far the likeliest class of each row is ahead of the second."""
    two_best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(two_best[:, 1] - two_best[:, 0])
