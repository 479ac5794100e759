"""What a thousand texts cost and take, by the LLMs and by the classifier, and when the classifier has paid for itself.

Everything is measured on this run: tokens and seconds of each call are in the label store, prices in the config, and
prediction notes its time. What is not known is None and stays unknown; it is never taken for 0. A local model and the
classifier cost no money here: the machine and its electricity are not counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from nbhelpers.alignment import how_made
from nbhelpers.config import Config, Size
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import usage
from nbhelpers.money import dollars
from nbhelpers.page_words import sources
from nbhelpers.pictures import exact_percent
from nbhelpers.run_folder import RunFolder


@dataclass(frozen=True)
class Rate:
    """What one labeller takes for a text: `dollars` and `seconds`, measured on `texts` texts.

    `at_once` calls run side by side at best; `seconds` are of one of them.
    """

    name: str
    texts: int
    dollars: float | None
    seconds: float
    at_once: int = 1

    @property
    def wall_seconds(self) -> float:
        """Seconds that pass for each of many texts, with as many calls at once as the config allows."""
        return self.seconds / self.at_once


@dataclass(frozen=True)
class Making:
    """What the classifier took to make: every LLM call for it, and its training (all iterations)."""

    dollars: float | None
    llm_seconds: float
    training_seconds: float

    @property
    def seconds(self) -> float:
        return self.llm_seconds + self.training_seconds


def llm_rate(config: Config, store: LabelStore, size: Size) -> Rate | None:
    """What a label by the "large" or "small" LLM takes, failed calls and further answers to the same text included.

    None where it gave none.
    """
    api = config.api_of(size)
    tables = {kind: store.usage(kind=kind, model=api.model) for kind in ("label", "sample")}
    of_size = {kind: table[table["size"] == size] for kind, table in tables.items()}
    labelled = int((of_size["label"]["calls"] - of_size["label"]["failed"]).sum())
    if labelled == 0:
        return None
    row = pd.concat(of_size.values())[["prompt_tokens", "completion_tokens", "seconds"]].sum()
    sent, received = config.price_of(size)
    seconds_each = row["seconds"] / labelled
    if api.mode == "local":  # its first texts also take the time to load it
        answers = store.answers("label")
        own = (answers["size"] == size) & (answers["model"] == api.model)
        seconds_each = float(answers.loc[own, "seconds"].median())
    dollars = None
    if sent is not None and received is not None:
        dollars = (row["prompt_tokens"] * sent + row["completion_tokens"] * received) / 1e6 / labelled
    return Rate(api.model, labelled, dollars, seconds_each, _at_once(config, size))


def routes(labelled_by: Mapping[str, int], *, config: Config, store: LabelStore) -> str:
    """The share of the labels that each labeller gave, and what a thousand of its labels cost.

    Args:
        labelled_by: labels by "small", "large" or "human"; one that the large LLM gave in the cascade was first the
            small one's, and has cost both.
        config, store: prices and calls.
    Example: Labels: 90 by the small LLM (75.0 %, $0.12 a thousand), 30 by the large LLM (25.0 %, $4.50 a thousand).
    """
    rates = {"small": llm_rate(config, store, "small"), "large": llm_rate(config, store, "large")}
    told = []
    for source, n in labelled_by.items():
        rate, share = rates.get(source), exact_percent(n / sum(labelled_by.values()))
        price = (
            "price unknown" if rate is None or rate.dollars is None else f"{dollars(1000 * rate.dollars)} a thousand"
        )
        told.append(f"{sources({source: n})} ({share}{'' if source == 'human' else f', {price}'})")
    return f"Labels: {', '.join(told)}."


def classifier_rate(run: RunFolder, name: str) -> Rate | None:
    """What a prediction by the final classifier `name` takes; None where it has not predicted yet."""
    if not run.prediction_time.exists():
        return None
    time = run.read_json(run.prediction_time, made_by="05_predict")
    if time["classifier"] != name:
        return None
    return Rate(name, time["texts"], 0.0, time["seconds"] / time["texts"])


def making(config: Config, run: RunFolder, store: LabelStore) -> Making:
    """What this run folder's classifiers took to make: all calls ever, and the trainings of those that are there."""
    calls = store.usage()
    llm_seconds = sum(
        seconds / _at_once(config, size) for size, seconds in zip(calls["size"], calls["seconds"], strict=True)
    )
    # A set: a classifier that was brought back is a copy, and took no time of its own.
    trainings = {(run.classifier(number) / "training.json").read_text("utf-8") for number in run.iterations()}
    seconds = sum(json.loads(made).get("seconds", 0.0) for made in trainings) + how_made(run).get("seconds", 0.0)
    return Making(usage(config, store)["cost_usd"], llm_seconds, seconds)


def break_even(spent: float | None, by_llm: float | None, by_classifier: float | None) -> float | None:
    """After how many texts the classifier has paid for itself, in dollars or in seconds.

    Args:
        spent: what making it took.
        by_llm, by_classifier: what one text takes.
    Returns:
        A whole number of texts; infinity where the LLM takes no more for a text than the classifier; None where a
        figure is unknown. Example: 3 dollars spent, 0.002 a text by the LLM, 0 by the classifier -> 1500.
    """
    if spent is None or by_llm is None or by_classifier is None:
        return None
    return math.inf if by_llm <= by_classifier else math.ceil(round(spent / (by_llm - by_classifier), 9))


def _at_once(config: Config, size: Size) -> int:
    return config.system.concurrency_limit if config.api_of(size).mode == "api" else 1
