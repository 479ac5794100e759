"""The budget: never exceeded, whatever is under way, fails, or is killed; what is bought by then is used."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from chat_server import BAD_JSON, ChatServer, Fault, keyword_labeller
from runs_made import WORDS, texts_of

from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.errors import ConfigError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks
from nbhelpers.llms import usage

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


def test_an_answer_takes_its_reservation_away(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(keyword_labeller(WORDS)) as server:
        label(texts(30), make_config(server.url, cost={**PRICES, "budget_usd": 1.0}), store)
    assert store.write_off() == 0.0


@pytest.mark.parametrize("missing", sorted(PRICES))
def test_a_budget_without_a_price_is_an_error(missing: str, make_config: MakeConfig) -> None:
    prices: dict[str, Any] = {name: price for name, price in PRICES.items() if name != missing}
    with pytest.raises(ConfigError, match=r"cost\.budget_usd: .*Fill in cost_per_million_"):
        make_config(cost={**prices, "budget_usd": 1.0})
