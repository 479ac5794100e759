"""What texts cost and take, against hand-computed figures from a store with known calls."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from nbhelpers.alignment import FOLDER, MADE_FROM
from nbhelpers.completions import Reply
from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.run_folder import RunFolder, write_json, write_text
from nbhelpers.running_costs import break_even, classifier_rate, llm_rate, making, routes

MakeConfig = Callable[..., Config]
PRICES = {"cost_per_million_large_input": 1.0, "cost_per_million_large_output": 10.0}


def call(store: LabelStore, *, ok: bool = True, **changes: Any) -> None:
    """A call to the large LLM for a label, of 2000 tokens sent and 100 received, in 6 seconds."""
    seconds = changes.pop("seconds", 6.0)
    used = {"key": str(store.usage()["calls"].sum()), "usage": Reply("x", "stop", 2000, 100, seconds)}
    given = {"kind": "label", "size": "large", "model": "big", **used, **changes}
    if ok:
        store.put_answer(**given, prompt=[], label="sports")
    else:
        store.record_failure(**given, reason="no final label")


def test_a_label_costs_its_tokens_and_those_of_failed_calls(make_config: MakeConfig, store: LabelStore) -> None:
    for ok in (True, True, False):
        call(store, ok=ok)
    rate = llm_rate(make_config(cost=PRICES, system={"concurrency_limit": 3}), store, "large")
    assert rate is not None
    # three calls of 2000 * $1 and 100 * $10 a million tokens, $0.003 each, for two labels
    assert (rate.texts, rate.dollars) == (2, pytest.approx(0.0045))
    assert (rate.seconds, rate.wall_seconds) == (pytest.approx(9.0), pytest.approx(3.0))


def test_further_answers_to_a_text_are_part_of_its_labels_price(make_config: MakeConfig, store: LabelStore) -> None:
    for kind in ("label", "sample", "sample"):  # labeling.label_samples: 3
        call(store, kind=kind)
    rate = llm_rate(make_config(cost=PRICES), store, "large")
    assert rate is not None
    assert (rate.texts, rate.dollars, rate.seconds) == (1, pytest.approx(0.009), pytest.approx(18.0))


def test_an_unknown_price_stays_unknown(make_config: MakeConfig, store: LabelStore) -> None:
    call(store)
    for cost in ({}, {"cost_per_million_large_input": 1.0}):
        rate = llm_rate(make_config(cost=cost), store, "large")
        assert rate is not None
        assert rate.dollars is None


@pytest.mark.parametrize("other", [{"kind": "rules"}, {"size": "small"}, {"model": "of an earlier run"}])
def test_only_labels_by_this_model_count(make_config: MakeConfig, store: LabelStore, other: dict[str, Any]) -> None:
    call(store, **other)
    assert llm_rate(make_config(), store, "large") is None


def test_a_model_that_only_failed_has_no_rate(make_config: MakeConfig, store: LabelStore) -> None:
    call(store, ok=False)
    assert llm_rate(make_config(), store, "large") is None


def test_the_time_to_load_a_local_model_is_not_counted(make_config: MakeConfig, store: LabelStore) -> None:
    for seconds in (60.0, 2.0, 2.0):
        call(store, seconds=seconds)
    rate = llm_rate(make_config(api={"large_mode": "local"}), store, "large")
    assert rate is not None
    assert (rate.dollars, rate.wall_seconds) == (0.0, 2.0)


def test_each_route_is_shown_with_its_share_and_price(make_config: MakeConfig, store: LabelStore) -> None:
    for size in ("small", "large"):
        call(store, size=size, model={"small": "little", "large": "big"}[size])
    prices = {**PRICES, "cost_per_million_small_input": 0.1, "cost_per_million_small_output": 1.0}
    labels = {"small": 59, "large": 20, "human": 1}
    assert routes(labels, config=make_config(cost=prices), store=store) == (
        "Labels: 59 by the small LLM (73.8 %, $0.30 a thousand), 20 by the large LLM (25.0 %, $3.00 a thousand), "
        "1 by people (1.2 %)."
    )
    assert "large LLM (100.0 %, price unknown)" in routes({"large": 5}, config=make_config(), store=store)


def test_the_classifiers_time_is_that_of_its_own_prediction(run: RunFolder) -> None:
    assert classifier_rate(run, "classifier_2") is None
    write_json(run.prediction_time, {"classifier": "classifier_2", "texts": 400, "seconds": 10.0})
    rate = classifier_rate(run, "classifier_2")
    assert rate is not None
    assert (rate.dollars, rate.seconds, rate.texts) == (0.0, 0.025, 400)
    assert classifier_rate(run, "classifier_3") is None


def test_making_counts_all_calls_and_each_training_once(
    make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    call(store)
    call(store, kind="rules", ok=False)
    # The third is a copy; the fourth had the same texts to train on, and another validation set.
    for number, dataset, seconds in [(1, "a", 20.0), (2, "b", 30.0), (3, "a", 20.0), (4, "a", 21.0)]:
        made = json.dumps({"dataset": dataset, "seconds": seconds})
        write_text(run.classifier(number) / "training.json", made)
    config = make_config(cost=PRICES, system={"concurrency_limit": 4})
    took = making(config, run, store)
    assert (took.dollars, took.llm_seconds, took.training_seconds) == (pytest.approx(0.006), 3.0, 71.0)
    assert took.seconds == 74.0
    write_json(run.root / FOLDER / MADE_FROM, {"made_from": "texts", "seconds": 7.0})
    assert making(config, run, store).training_seconds == 78.0


@pytest.mark.parametrize(
    ("spent", "by_llm", "by_classifier", "texts"),
    [
        (3.0, 0.002, 0.0, 1500),
        (3.0, 0.0021, 0.0001, 1500),
        (1.0, 0.3, 0.0, 4),  # 3.33: the fourth text pays it off
        (0.0, 0.3, 0.0, 0),
        (3.0, 0.0, 0.0, math.inf),
        (3.0, 0.1, 0.2, math.inf),
        (None, 0.1, 0.0, None),
        (3.0, None, 0.0, None),
        (3.0, 0.1, None, None),
    ],
)
def test_break_even(
    spent: float | None, by_llm: float | None, by_classifier: float | None, texts: float | None
) -> None:
    assert break_even(spent, by_llm, by_classifier) == texts
