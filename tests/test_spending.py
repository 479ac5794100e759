"""The budget: never exceeded, whatever is under way, fails, or is killed; what is bought by then is used."""

import asyncio
import itertools
import json
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

from nbhelpers import chat
from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.errors import ChatError, ConfigError, EndpointError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import MAX_TOKENS, NOT_ASKED, label_chunks, label_prompt
from nbhelpers.llms import usage
from nbhelpers.prompt_files import Message
from nbhelpers.rules import make_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.spending import Budget

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


def test_what_an_earlier_model_cost_stays_spent(make_config: MakeConfig, store: LabelStore, tiny_llm: Path) -> None:
    cheap = {f"cost_per_million_small_{way}": 0.001 for way in ("input", "output")}
    with ChatServer(keyword_labeller(WORDS)) as server:
        label(texts(30), make_config(server.url), store)
        spent = paid(server)
        usage(make_config(server.url, cost=PRICES), store)  # the prices are added when all is answered
        for changes in (
            {"api": {"small_model": "less"}, "cost": {**PRICES, **cheap, "budget_usd": 1.0}},
            {"api": {"small_model": str(tiny_llm), "small_mode": "local"}, "cost": {**PRICES, "budget_usd": 1.0}},
        ):
            config = make_config(server.url, **changes)
            assert Budget(config, store).spent == usage(config, store)["cost_usd"] == pytest.approx(spent, abs=1e-6)
        label(texts(3), config, store)
        back = make_config(server.url, cost={**PRICES, "budget_usd": 1.0})
        assert usage(back, store)["cost_usd"] == pytest.approx(spent, abs=1e-6)  # the local model's tokens are free
        dearer = make_config(server.url, cost={**{name: 2 * price for name, price in PRICES.items()}})
        assert usage(dearer, store)["cost_usd"] == pytest.approx(2 * spent, abs=2e-6)  # a price that is put right


WORKER = """
import json, sys
import pandas as pd
from nbhelpers.config_file import parse_config
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
    """The budget holds two calls at a time; they fail for good, and what the last one may have cost stays spent."""
    numbers, labeller = itertools.count(1), keyword_labeller(WORDS)

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        return labeller(model, messages) if next(numbers) < 4 else DROP

    with ChatServer(answer) as server:
        limits = {"system": {"concurrency_limit": 8}, "labeling": {"patience_seconds": 0.2, "answer_form": "plain"}}
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.0199}, **limits)
        with pytest.raises(EndpointError):
            label(texts(30), config, store)
    assert len(store.answers("label")) == 3
    assert 0.008 < store.write_off() <= 0.0199


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


@pytest.mark.parametrize(("attempts_worth", "questions"), [(7.01, 0), (8.2, 1)])
def test_the_short_question_in_an_outage_is_asked_only_where_the_budget_holds_it_too(
    attempts_worth: float, questions: int, make_config: MakeConfig, store: LabelStore
) -> None:
    """Seven attempts cost all they can; then it is asked whether the endpoint is silent, unless that was all."""
    chunks, labeller, sent = texts(6), keyword_labeller(WORDS), [0]
    bad, plain = chunks["text"][1], {"answer_form": "plain"}

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        if shown_text(messages) == bad:
            used = {"prompt_tokens": sent[0], "completion_tokens": MAX_TOKENS}
            return Fault(200, body=json.dumps({"choices": [], "usage": used}))
        return "x" * 2000 if shown_text(messages) is None else labeller(model, messages)

    with ChatServer(answer) as server:
        config = make_config(server.url, labeling=plain)
        label(chunks.head(1), config, store)
        sent[0] = sum(len(turn["content"].encode()) for turn in label_prompt(config, "Go by the word.").render(bad))
        attempt = (sent[0] * 1.0 + MAX_TOKENS * 4.0) / 1e6
        budget = paid(server) + attempts_worth * attempt
        label(chunks[1:2], make_config(server.url, cost={**PRICES, "budget_usd": budget}, labeling=plain), store)
        attempts = sum(shown_text(request["messages"]) == bad for request in server.requests)
    assert (attempts, server.calls - 1 - attempts) == (7, questions)
    assert paid(server) + attempts * attempt <= budget


def test_what_failed_attempts_have_cost_counts_while_the_next_one_waits_for_money(
    make_config: MakeConfig, store: LabelStore
) -> None:
    """A call costs 8,062 millionths at most; there are two and a half of them: "a" has lost one, "b" is under way."""
    config = make_config(cost={**PRICES, "budget_usd": 2.5 * 8062e-6})
    question: list[Message] = [{"role": "user", "content": "x" * 10}]

    async def main() -> list[bool]:
        budget = Budget(config, store)
        await budget.admit("a", "small", question, 2000)
        await budget.admit("b", "small", question, 2000)
        again = asyncio.create_task(budget.admit("a", "small", question, 2000, lost=(62, 2000)))
        other = asyncio.create_task(budget.admit("c", "small", question, 2000))
        done = []
        for _ in range(2):
            await asyncio.sleep(0.01)
            done += [again.done(), other.done()]
            budget.settle("b", "small", 10, 1)
        other.cancel()
        return done

    assert asyncio.run(main()) == [False, False, True, False]


def test_a_call_is_reserved_at_a_token_a_byte_whatever_was_seen_before(
    make_config: MakeConfig, store: LabelStore
) -> None:
    config = make_config(cost={**PRICES, "budget_usd": 1.0})

    async def main() -> None:
        budget = Budget(config, store)
        await budget.admit("cheap", "small", [{"role": "user", "content": "a" * 4000}], 10)
        budget.settle("cheap", "small", 1000, 10)
        await budget.admit("dear", "small", [{"role": "user", "content": "ก" * 4000}], 10, extra={"x": "y" * 100})

    asyncio.run(main())
    assert store.write_off() == pytest.approx((4010 + 12_010 + 100) * 1e-6 + 60e-6, abs=150e-6)


@pytest.mark.parametrize("fault", [Fault(429, code="insufficient_quota"), Fault(401), Fault(500)])
def test_calls_that_are_refused_cost_nothing_however_often_it_is_tried(
    fault: Fault, make_config: MakeConfig, run: RunFolder, store: LabelStore
) -> None:
    with ChatServer(lambda *_: fault) as server:
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.1})
        for _ in range(3):
            with pytest.raises(ChatError):
                make_rules(config, run, store)
            with pytest.raises(ChatError):
                label(texts(60), config, store)
        assert server.calls >= 6
    assert store.write_off() == 0.0


def test_what_a_call_lost_before_it_was_given_up_stays_spent(make_config: MakeConfig, store: LabelStore) -> None:
    config = make_config(cost={**PRICES, "budget_usd": 1.0})

    async def main() -> float:
        budget = Budget(config, store)
        for key, lost in (("known", (100, 10)), ("unknown", None)):
            await budget.admit(key, "small", [{"role": "user", "content": "a" * 950}], 1000)
            budget.abandon(key, "small", lost)
        return budget.spent

    assert asyncio.run(main()) == pytest.approx(140e-6 + 5000e-6, abs=10e-6)
    assert store.write_off() == pytest.approx(140e-6 + 5000e-6, abs=10e-6)


def test_an_answer_takes_its_reservation_away(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(keyword_labeller(WORDS)) as server:
        label(texts(30), make_config(server.url, cost={**PRICES, "budget_usd": 1.0}), store)
    assert store.write_off() == 0.0


@pytest.mark.parametrize("missing", sorted(PRICES))
def test_a_budget_without_a_price_is_an_error(missing: str, make_config: MakeConfig) -> None:
    prices: dict[str, Any] = {name: price for name, price in PRICES.items() if name != missing}
    with pytest.raises(ConfigError, match=r"cost\.budget_usd: .*Fill in cost_per_million_"):
        make_config(cost={**prices, "budget_usd": 1.0})


def test_what_is_sent_beside_the_messages_is_reserved_too(make_config, store) -> None:
    budget = Budget(make_config(cost={**PRICES, "budget_usd": 1.0}), store)
    for key, extra in (("a", {}), ("b", {"response_format": "x" * 5000})):
        asyncio.run(budget.admit(key, "small", [{"role": "user", "content": "a"}], 10, extra=extra))
    assert budget._counted["b"] - budget._counted["a"] == pytest.approx(5000e-6, rel=0.02)


def test_a_prompt_for_rules_that_is_refused_costs_nothing(make_config, run, store) -> None:
    flagged = Fault(400, body=json.dumps({"error": {"message": "Invalid prompt: flagged", "code": "invalid_prompt"}}))
    with ChatServer(lambda _, messages: "OK" if messages == chat.CHECK else flagged) as server:
        config = make_config(server.url, cost={**PRICES, "budget_usd": 0.1})
        for _ in range(8):
            with pytest.raises(ChatError, match="refuses the request"):
                make_rules(config, run, store)
        assert store.write_off() == 0.0
