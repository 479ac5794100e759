"""The texts that are labelled for training: which ones, in which batch, and the labels they get.

The list of chosen texts only ever grows and is kept in the label store, so an iteration that is repeated has the same
texts. How a text is labelled, and by what rule texts are chosen, is not decided here (see labeling and selection).
"""

from collections.abc import Sequence

import pandas as pd

from nbhelpers.cascade import examine_labels, send_on
from nbhelpers.class_shares import estimate_shares
from nbhelpers.class_texts import describe_classes
from nbhelpers.config import Config
from nbhelpers.features import features
from nbhelpers.human_labels import human_labels
from nbhelpers.label_store import LabelStore
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import RANDOM, Evidence, choose, kinds, random_order, random_part, validation_share, weigh

MOST_CANDIDATES = 20_000  # random pool texts among which the next batch is chosen


def open_batches(
    number: int,
    pool: pd.DataFrame,
    *,
    labels: pd.DataFrame | None,
    config: Config,
    run: RunFolder,
    store: LabelStore,
) -> list[list[str]]:
    """The chunk ids of the first `number` batches; chooses more texts where the store's list is too short.

    Args:
        number: how many batches, from 1.
        pool: the chunks that may be trained on.
        labels: those so far, as `settle_labels` gives them, to choose by; None before there are some.
        config, run, store: sizes, selection and encoder; where features are kept; what was chosen before.
    Returns:
        Fewer or shorter batches where the pool is used up.
    """
    training = config.training
    ends = [training.train_set_size + i * training.train_set_increment for i in range(number)]
    eligible = set(pool["chunk_id"])
    chosen = [chunk_id for chunk_id in store.selected() if chunk_id in eligible]
    if len(chosen) < ends[-1]:
        more = choose_texts(pool, chosen, ends[-1] - len(chosen), labels=labels, config=config, run=run)
        store.add_selected(list(zip(more["chunk_id"], more["why"], strict=True)))
        chosen += more["chunk_id"].tolist()
    return [chosen[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True) if chosen[start:end]]


def choose_texts(
    pool: pd.DataFrame,
    chosen: Sequence[str],
    n: int,
    *,
    labels: pd.DataFrame | None,
    config: Config,
    run: RunFolder,
) -> pd.DataFrame:
    """The next n texts to label; `choose` with what frozen features and the labels so far say of the candidates.

    Args:
        pool, labels, config, run: as for `open_batches`.
        chosen: the texts of the pool that are labelled, or about to be.
    Returns:
        Columns chunk_id and why, in the order of choice.
    """
    training, seed = config.training, config.system.seed
    known = pool["chunk_id"].isin(set(chosen))
    candidates, evidence = pool[~known], None
    if training.selection == "auto" and len(candidates) > n:
        few = random_order(candidates["chunk_id"].tolist(), seed)[: max(MOST_CANDIDATES, n)]
        candidates = candidates[candidates["chunk_id"].isin(set(few))]
        evidence = _evidence(candidates, labels, config, run)
    return choose(
        candidates,
        n=n,
        seed=seed,
        strategy=training.selection,
        evidence=evidence,
        labelled_groups=pool.loc[known, "near_group"].tolist(),
    )


def pool_shares(labels: pd.DataFrame, pool: pd.DataFrame, *, config: Config, store: LabelStore) -> pd.DataFrame:
    """The classes' shares of the pool, from the random share of each batch, validation texts included.

    Args:
        labels: all labels so far.
        pool: the chunks that may be trained on.
    Returns:
        Columns class, n, share, low, high (see `estimate_shares`).
    """
    sample = _random_sample(labels["chunk_id"], pool, config=config, store=store)
    given = labels.set_index("chunk_id")["label"].loc[sample].tolist()
    return estimate_shares(given, config.classification.classes)


def why_chosen(
    labels: pd.DataFrame, *, config: Config, store: LabelStore, examples: int = 2
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Why the texts so far were chosen, and what they turned out to be.

    Args:
        labels: all labels so far.
        config, store: the classes; what was chosen, and why.
        examples: the latest texts to show of each reason.
    Returns:
        Texts by reason and label, the commonest reason first; and the examples, with why, label and text.
    """
    told = labels.merge(store.selection()[["chunk_id", "why"]], on="chunk_id")
    reason = kinds(told["why"])
    names = [*config.classification.classes, "no label"]
    counts = pd.crosstab(reason, told["label"].fillna("no label")).reindex(columns=names, fill_value=0)
    counts.insert(0, "texts", counts.sum(axis=1))
    counts = counts.sort_values("texts", ascending=False, kind="stable")
    shown = told.groupby(reason, sort=False).tail(examples)[["why", "label", "text"]]
    return counts, shown.iloc[::-1].reset_index(drop=True)


def settle_labels(
    batches: Sequence[pd.DataFrame],
    *,
    pool: pd.DataFrame,
    rules: str,
    config: Config,
    run: RunFolder,
    store: LabelStore,
) -> pd.DataFrame:
    """All labels so far, as they are trained on: the most doubtful ones by the large LLM, people's above any LLM's.

    Args:
        batches: the small LLM's labels, as `label_chunks` gives them.
        pool: the chunks that may be trained on.
        rules, config, run, store: as for `send_on`.
    Returns:
        The same rows, with the columns source (small, large or human), split (train or validation) and drawn (whether
        the text is of a random sample of the pool: drawn at random, or chosen before it could be).
    """
    labels, human = pd.concat(batches, ignore_index=True), human_labels(config, run, store).labels
    labels = send_on(labels, people=set(human), rules=rules, config=config, run=run, store=store)
    corrected = labels["chunk_id"].isin(human)
    labels.loc[corrected, "label"] = labels.loc[corrected, "chunk_id"].map(human)
    labels.loc[corrected, "source"] = "human"
    labels.loc[corrected, "reason"] = ""  # whatever became of the LLM's
    labels.loc[corrected, "confidence"] = float("nan")
    held_out = validation_share(labels["chunk_id"].tolist())
    why = store.selection().set_index("chunk_id")["why"]
    sample = _random_sample(labels["chunk_id"], pool, config=config, store=store)
    return labels.assign(
        split=["validation" if apart else "train" for apart in held_out],
        drawn=(labels["chunk_id"].map(why) == RANDOM) | labels["chunk_id"].isin(sample),
    )


def _random_sample(chunk_ids: "pd.Series[str]", pool: pd.DataFrame, *, config: Config, store: LabelStore) -> list[str]:
    """Those of the labelled texts that are a random sample of the pool (see `random_part`)."""
    chosen = store.selection()
    chosen = chosen[chosen["chunk_id"].isin(chunk_ids) & chosen["chunk_id"].isin(pool["chunk_id"])]
    return random_part(pool, chosen, seed=config.system.seed)


def _evidence(candidates: pd.DataFrame, labels: pd.DataFrame | None, config: Config, run: RunFolder) -> Evidence:
    task, base_model = config.classification, config.training.model_path
    trained = None if labels is None else labels[labels["label"].notna() & (labels["split"] == "train")]
    rows = features(candidates["text"].tolist(), base_model=base_model, run=run)
    class_rows = features(describe_classes(task.classes, task.desc), base_model=base_model, run=run)
    if trained is None or trained.empty:
        return weigh(rows, class_rows, classes=task.classes, labelled=rows[:0], labels=[], doubts=[])
    examined = examine_labels(trained, config=config, run=run)
    return weigh(
        rows,
        class_rows,
        classes=task.classes,
        labelled=features(examined["text"].tolist(), base_model=base_model, run=run),
        labels=examined["label"].tolist(),
        doubts=examined["doubt"].tolist(),
    )
