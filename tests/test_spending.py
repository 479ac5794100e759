"""The budget: never exceeded, whatever is under way, fails, or is killed; what is bought by then is used."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_server import BAD_JSON, DROP, NO_CHOICES, ChatServer, Fault, keyword_labeller, shown_text
from runs_made import WORDS, texts_of

from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.errors import ConfigError, EndpointError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks
from nbhelpers.llms import usage
from nbhelpers.run_folder import RunFolder

MakeConfig = Callable[..., Config]
PRICES = {
    f"cost_per_million_{size}_{way}": price
    for size in ("large", "small")
    for way, price in [("input", 1.0), ("output", 4.0)]
}

pytestmark = pytest.mark.usefixtures("quick_retries")


def texts(n: int) -> pd.DataFrame:
    made = texts_of(dict.fromkeys(WORDS, n // 3))
    return pd.DataFrame({"chunk_id": [chunk_id(text) for text in made], "text": made})


def label(chunks: pd.DataFrame, config: Config, store: LabelStore) -> pd.DataFrame:
    return label_chunks(chunks, size="small", rules="Go by the word.", config=config, store=store)


def paid(server: ChatServer) -> float:
    return (server.prompt_tokens * 1.0 + server.completion_tokens * 4.0) / 1e6


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.0199])
def test_it_is_never_exceeded_and_what_was_bought_is_used(
    budget: float, make_config: MakeConfig, store: LabelStore
) -> None:
    chunks = texts(300)
    with ChatServer(keyword_labeller(WORDS), faults=[BAD_JSON, Fault(500)] * 2) as server:
        config = make_config(server.url, cost={**PRICES, "budget_usd": budget})
        labels = label(chunks, config, store)
        assert paid(server) <= budget
        bought = labels["label"].notna()
        assert bought.sum() == sum(server.answered.values())
        assert set(labels.loc[~bought, "reason"]) == {NOT_ASKED}
        if budget:  # and it is used: no more is left than a call may cost at most
            assert paid(server) > budget - 0.0095
            before = server.calls
            assert label(chunks, config, store)["label"].notna().sum() == bought.sum()
            assert server.calls == before
            more = make_config(server.url, cost={**PRICES, "budget_usd": 1.0})
            assert label(chunks, more, store)["label"].notna().all()
        assert server.asked_twice == []


def test_calls_of_a_killed_run_count_as_spent(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(keyword_labeller(WORDS)) as server:
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.02})
        store.reserve("a key", 0.015)  # sent by a run that was killed before the answer
        label(texts(300), config, store)
        assert paid(server) <= 0.005
        assert usage(config, store)["written_off_usd"] == pytest.approx(0.015)


WORKER = """
import json, sys
import pandas as pd
from nbhelpers.config import parse_config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks

config, chunks = parse_config(json.loads(sys.argv[1])), pd.read_json(sys.argv[2], dtype=str)
with LabelStore(config.path.output_dir / "labels.sqlite") as store:
    label_chunks(chunks, size="small", rules="Go by the word.", config=config, store=store)
"""


def test_what_was_under_way_at_a_kill_counts_at_the_most_it_could_cost(
    make_config: MakeConfig, run: RunFolder, tmp_path: Path
) -> None:
    chunks, at_once = texts(300), 4
    chunks.to_json(tmp_path / "chunks.json")
    silent, numbers = threading.Event(), itertools.count(1)
    labeller = keyword_labeller(WORDS)

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        if next(numbers) > 20:
            silent.wait(30)  # it is worked on, and will be billed
        return labeller(model, messages)

    with ChatServer(answer) as server:
        limits = {"system": {"concurrency_limit": at_once}, "labeling": {"answer_form": "plain"}}
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.05}, **limits)
        process = subprocess.Popen([sys.executable, "-c", WORKER, config.model_dump_json(), tmp_path / "chunks.json"])
        deadline = time.monotonic() + 30
        while server.calls < 20 + at_once and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        silent.set()
        with LabelStore(run.labels) as store:
            assert (server.calls, len(store.answers("label"))) == (20 + at_once, 20)
            labels = label(chunks, config, store)
            found = usage(config, store)
            # a reply of MAX_TOKENS costs 0.008, and a prompt of a few hundred tokens less than a tenth of that
            assert at_once * 0.008 < found["written_off_usd"] < at_once * 0.0088
            assert found["cost_usd"] + found["written_off_usd"] <= 0.05
            assert paid(server) <= 0.05  # what was under way is billed too
            assert 20 < labels["label"].notna().sum() < 300
            label(chunks, config, store)
            assert usage(config, store)["written_off_usd"] == found["written_off_usd"]  # once


def test_calls_that_wait_for_money_end_with_those_that_the_endpoint_leaves_unanswered(
    make_config: MakeConfig, store: LabelStore
) -> None:
    """The budget holds two calls at a time; both fail for good, and what they may have cost stays spent."""
    numbers, labeller = itertools.count(1), keyword_labeller(WORDS)

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        return labeller(model, messages) if next(numbers) < 4 else DROP

    with ChatServer(answer) as server:
        limits = {"system": {"concurrency_limit": 8}, "labeling": {"patience_seconds": 0.2, "answer_form": "plain"}}
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.0199}, **limits)
        with pytest.raises(EndpointError):
            label(texts(30), config, store)
    assert len(store.answers("label")) == 3
    assert 0.016 < store.write_off() <= 0.0199


def test_what_a_call_that_failed_for_good_used_is_counted(make_config: MakeConfig, store: LabelStore) -> None:
    chunks, labeller = texts(30), keyword_labeller(WORDS)
    bad = chunks["text"][3]

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        return NO_CHOICES if shown_text(messages) == bad else labeller(model, messages)

    with ChatServer(answer, latency=0.01) as server:
        labels = label(chunks, make_config(server.url, labeling={"answer_form": "plain"}), store)
        asked = sum(shown_text(request["messages"]) == bad for request in server.requests)
    assert labels.index[labels["label"].isna()].tolist() == [3]
    used = store.usage().iloc[0]  # an answer without choices takes 7 and 2 tokens
    assert used["prompt_tokens"] == server.prompt_tokens + 7 * asked
    assert used["completion_tokens"] == server.completion_tokens + 2 * asked


def test_an_answer_takes_its_reservation_away(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(keyword_labeller(WORDS)) as server:
        label(texts(30), make_config(server.url, cost={**PRICES, "budget_usd": 1.0}), store)
    assert store.write_off() == 0.0


@pytest.mark.parametrize("missing", sorted(PRICES))
def test_a_budget_without_a_price_is_an_error(missing: str, make_config: MakeConfig) -> None:
    prices: dict[str, Any] = {name: price for name, price in PRICES.items() if name != missing}
    with pytest.raises(ConfigError, match=r"cost\.budget_usd: .*Fill in cost_per_million_"):
        make_config(cost={**prices, "budget_usd": 1.0})
