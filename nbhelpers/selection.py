"""Which texts to label next, and which labelled texts validate.

Pure given its arrays: it touches no model, disk or clock. Every draw goes by a hash of the chunk id, not by a random
number generator, so a text's place does not move when other texts come or go.

Source: smallest margin first ("breaking ties"), Schröder et al. 2022 (arXiv:2107.05687), with a random share because
active selection alone chases odd texts and hides how the pool is made up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.errors import ConfigError

ACTIVE_SHARE = 0.5  # of a batch, with strategy "auto" and a classifier to ask


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
    probabilities: np.ndarray[Any, Any] | None,
) -> pd.DataFrame:
    """Choose the texts to label next, at most one of a group of near-duplicates until every group has one.

    Args:
        candidates: columns chunk_id and near_group, one row a text that is not labelled yet.
        n: how many; all of them if there are fewer.
        seed: of the random part.
        strategy: "random", or "auto": part of the batch where the classifier is least sure, the rest at random.
        probabilities: the classifier's, one row a candidate in the same order; None before there is one.
    Returns:
        Columns chunk_id and why ("random" or, for example, "least sure (margin 0.03)"), in the order of choice.
    Raises:
        ConfigError: an unknown strategy.
    """
    if strategy not in ("auto", "random"):
        raise ConfigError(f"training.selection is {strategy!r}: choose 'auto' or 'random'.")
    place = {chunk_id: i for i, chunk_id in enumerate(random_order(candidates["chunk_id"].tolist(), seed))}
    table = pd.DataFrame(
        {
            "chunk_id": candidates["chunk_id"].to_numpy(),
            "near_group": candidates["near_group"].to_numpy(),
            "place": [place[chunk_id] for chunk_id in candidates["chunk_id"]],
        }
    )
    chosen = table.head(0).assign(why="")
    if strategy == "auto" and probabilities is not None:
        table["margin"] = _margins(probabilities)
        least_sure = _spread(table.sort_values(["margin", "place"]), chosen).head(round(ACTIVE_SHARE * n))
        chosen = least_sure.assign(why=[f"least sure (margin {margin:.2f})" for margin in least_sure["margin"]])
    rest = _spread(table.drop(index=chosen.index).sort_values("place"), chosen).head(max(0, n - len(chosen)))
    return pd.concat([chosen, rest.assign(why="random")])[["chunk_id", "why"]].reset_index(drop=True)


def _spread(ranked: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The same rows, a near-duplicate group's second text after every group's first, and so on; else in rank order."""
    before = ranked["near_group"].map(chosen["near_group"].value_counts()).fillna(0)
    turn = before + ranked.groupby("near_group").cumcount()
    return ranked.loc[turn.sort_values(kind="stable").index]


def _margins(probabilities: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    two_best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(two_best[:, 1] - two_best[:, 0])


def _uniform(purpose: str, chunk_id: str) -> float:
    """A number from 0 to 1, fixed by its arguments; each purpose has its own, so that draws are independent."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\n{chunk_id}".encode()).digest()[:8], "big") / 2**64
