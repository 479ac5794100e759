"""Labels that people own or gave: from a .csv file (`path.human_labels`) and from the notebooks' widgets.

They outrank every LLM's in training; those of test texts change no test label, and say how right the LLM's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nbhelpers.audit import Support, TruthEstimate, support_claim, truth_interval
from nbhelpers.config import Config
from nbhelpers.label_files import read_human_labels
from nbhelpers.label_store import LabelStore
from nbhelpers.run_folder import RunFolder


@dataclass(frozen=True)
class HumanLabels:
    """`labels` by chunk id; the ids whose texts were drawn at random as their giver says; what could not be used."""

    labels: dict[str, str]
    declared: set[str]
    problems: list[str]


def human_labels(config: Config, run: RunFolder, store: LabelStore) -> HumanLabels:
    """All labels by people; one given in a notebook outranks the file's, unless its class is no more.

    Raises:
        ConfigError: as `read_human_labels`.
    """
    file, classes = config.path.human_labels, config.classification.classes
    given = {chunk_id: label for chunk_id, label in store.human_labels().items() if label in classes}
    if file is None:
        return HumanLabels(given, set(), [])
    table, problems = read_human_labels(file, classes=classes, run=run)
    labels = dict(zip(table["chunk_id"], table["label"], strict=True))
    return HumanLabels({**labels, **given}, set(table.loc[table["drawn"] == "random", "chunk_id"]), problems)


def accuracy_against_people(
    predicted: Sequence[str], test: pd.DataFrame, *, config: Config, run: RunFolder, store: LabelStore
) -> TruthEstimate | None:
    """A classifier's accuracy against people's labels of test texts drawn at random; None where there are none.

    Args:
        predicted: its class of each test text.
        test: the test set with the LLM's labels, in the same order.
        config, run, store: where people's labels are.
    """
    ids = test["chunk_id"].tolist()
    people = random_labels(ids, config=config, run=run, store=store)
    if not people:
        return None
    place = {chunk_id: i for i, chunk_id in enumerate(ids)}
    return truth_interval(
        [said == label for said, label in zip(predicted, test["label"], strict=True)],
        [place[chunk_id] for chunk_id in people],
        [predicted[place[chunk_id]] == label for chunk_id, label in people.items()],
    )


def random_labels(test_ids: Sequence[str], *, config: Config, run: RunFolder, store: LabelStore) -> dict[str, str]:
    """People's labels of test texts, those only that support a claim about the truth (see `support_claim`).

    Args:
        test_ids: the test set, in the order of its draw.
        config, run, store: where people's labels are.
    """
    people, support = supported(test_ids, config=config, run=run, store=store)
    return {name: people.labels[name] for name in support.claim}


def supported(
    test_ids: Sequence[str], *, config: Config, run: RunFolder, store: LabelStore
) -> tuple[HumanLabels, Support]:
    """All labels by people, and which of them support a claim about the truth; arguments as in `random_labels`."""
    people, test = human_labels(config, run, store), set(test_ids)
    return people, support_claim(test_ids, people.labels, declared=people.declared & test)


def tell_support(people: HumanLabels, support: Support) -> list[str]:
    """How many labels by people say how accurate the classifier is, and why the others do not; nothing without any."""
    sentences = [f"path.human_labels: {problem}" for problem in people.problems]
    if people.labels:
        parts = [f"{len(support.claim)} of test texts drawn at random, which say how right the LLM and classifier are"]
        if support.after_gap:
            parts.append(
                f"{len(support.after_gap)} of test texts picked or after one left out, which say nothing of it"
            )
        if support.chosen:
            parts.append(f"{len(support.chosen)} of other texts, which say nothing of it and may be trained on")
        sentences.append(f"Labels by people: {'; '.join(parts)}.")
    return sentences
