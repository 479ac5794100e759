"""The texts that are labelled for training: which ones, in which batch, and the labels they get.

The list of chosen texts only ever grows and is kept in the label store, so an iteration that is repeated has the same
texts. How a text is labelled, and by what rule texts are chosen, is not decided here (see labeling and selection).
"""

from collections.abc import Sequence

import pandas as pd

from nbhelpers.cascade import send_on
from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.human_labels import human_labels
from nbhelpers.label_store import LabelStore
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import choose, random_order, validation_share

MOST_CANDIDATES = 1000  # pool texts that the last classifier looks at to choose the next batch


def open_batches(
    number: int, pool: pd.DataFrame, *, config: Config, store: LabelStore, classifier: Classifier | None
) -> list[list[str]]:
    """The chunk ids of the first `number` batches; chooses more texts where the store's list is too short.

    Args:
        number: how many batches, from 1.
        pool: the chunks that may be trained on.
        config, store: sizes and selection; what was chosen before.
        classifier: the last one, to choose by; None before there is one.
    Returns:
        Fewer or shorter batches where the pool is used up.
    """
    training = config.training
    ends = [training.train_set_size + i * training.train_set_increment for i in range(number)]
    eligible = set(pool["chunk_id"])
    chosen = [chunk_id for chunk_id in store.selected() if chunk_id in eligible]
    if len(chosen) < ends[-1]:
        candidates = pool[~pool["chunk_id"].isin(set(chosen))]
        more = choose_texts(candidates, ends[-1] - len(chosen), config=config, classifier=classifier)
        store.add_selected(list(zip(more["chunk_id"], more["why"], strict=True)))
        chosen += more["chunk_id"].tolist()
    return [chosen[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True) if chosen[start:end]]


def choose_texts(candidates: pd.DataFrame, n: int, *, config: Config, classifier: Classifier | None) -> pd.DataFrame:
    """The next n texts to label; `choose` with what the last classifier, if it is to be asked, says of a part of them.

    Returns:
        Columns chunk_id and why, in the order of choice.
    """
    training, seed = config.training, config.system.seed
    if training.selection == "random" or classifier is None or len(candidates) <= n:
        return choose(candidates, n=n, seed=seed, strategy="random", probabilities=None)
    few = random_order(candidates["chunk_id"].tolist(), seed)[: max(MOST_CANDIDATES, n)]
    looked_at = candidates.set_index("chunk_id").loc[few].reset_index()
    probabilities = classifier.predict_proba(looked_at["text"].tolist())
    return choose(looked_at, n=n, seed=seed, strategy=training.selection, probabilities=probabilities)


def settle_labels(
    batches: Sequence[pd.DataFrame], *, rules: str, config: Config, run: RunFolder, store: LabelStore
) -> pd.DataFrame:
    """All labels so far, as they are trained on: the most doubtful ones by the large LLM, people's above any LLM's.

    Args:
        batches: the small LLM's labels, as `label_chunks` gives them.
        rules, config, run, store: as for `send_on`.
    Returns:
        The same rows, with the columns source (small, large or human) and split (train or validation).
    """
    labels = send_on(pd.concat(batches, ignore_index=True), rules=rules, config=config, run=run, store=store)
    human = human_labels(config, run, store).labels
    corrected = labels["chunk_id"].isin(human)
    labels.loc[corrected, "label"] = labels.loc[corrected, "chunk_id"].map(human)
    labels.loc[corrected, "source"] = "human"
    labels.loc[corrected, "reason"] = ""  # whatever became of the LLM's
    labels.loc[corrected, "confidence"] = float("nan")
    held_out = validation_share(labels["chunk_id"].tolist())
    return labels.assign(split=["validation" if apart else "train" for apart in held_out])
