"""The two LLMs of a config: how they are called, whether they can be, and what they have cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import DROP, ChatServer, Fault, keyword_labeller

from nbhelpers.chat import STOP
from nbhelpers.completions import Reply
from nbhelpers.config import Config
from nbhelpers.errors import BudgetError, ChatRefusedError, ConfigError, EndpointError, ModelNotFoundError
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import chat_settings, check_llms, stored_under, usage
from nbhelpers.prompt_files import Message

MakeConfig = Callable[..., Config]
KEY = "sk-verySecret1234567890"
LABELLER = keyword_labeller({"goal": "sports"})
PRICES = {f"cost_per_million_{size}_{way}": 4.0 for size in ("large", "small") for way in ("input", "output")}

pytestmark = pytest.mark.usefixtures("quick_retries")


def used(prompt_tokens: int, completion_tokens: int) -> Reply:
    return Reply("x", "stop", prompt_tokens, completion_tokens, 0.1)


def count(store: LabelStore, size: str, prompt_tokens: int, completion_tokens: int, *, failed: bool = False) -> None:
    call: dict[str, Any] = {
        "kind": "label",
        "size": size,
        "model": "m",
        "usage": used(prompt_tokens, completion_tokens),
    }
    call["key"] = f"{size} {store.usage()['calls'].sum()}"
    if failed:
        store.record_failure(**call, reason="no final label")
    else:
        store.put_answer(**call, prompt=[], label="sports")


# Settings


def test_settings_are_those_of_the_config(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    config = make_config(
        api={"large_api_key": "${BIG_KEY}", "large_base_url": "http://localhost:1/v1"},
        system={"concurrency_limit": 3, "completion_mode": True, "use_stop": False},
    )
    large, small = (chat_settings(config, size, max_tokens=7) for size in ("large", "small"))
    assert (large.model, large.base_url, large.api_key, large.size) == ("big", "http://localhost:1/v1", KEY, "large")
    assert (large.concurrency, large.completion_mode, large.stop, large.max_tokens) == (3, True, (), 7)
    assert (small.model, small.api_key, small.size) == ("little", "", "small")
    assert chat_settings(make_config(), "small", max_tokens=7).stop == STOP
    assert KEY not in repr(large)


def test_a_key_that_is_not_in_the_environment_is_named(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = make_config(api={"small_api_key": "${NO_SUCH_KEY}"})
    with pytest.raises(ConfigError, match=r"api\.small_api_key is \$\{NO_SUCH_KEY\}, but .* Set it"):
        chat_settings(config, "small", max_tokens=7)


def under(config: Config) -> str:
    return stored_under(config, "large", text="a text", prompt=[Message(role="user", content="Which class?")])


def test_an_answer_is_stored_under_what_decides_it_and_nothing_else(make_config: MakeConfig) -> None:
    same = make_config("http://localhost:2/v1", api={"small_model": "other", "small_api_key": KEY}, system={"seed": 7})
    assert under(same) == under(make_config())
    others = {"system": {"use_stop": False}}, {"classification": {"classes": ["a", "b"]}}, {"api": {"large_model": "x"}}
    for changes in others:
        assert under(make_config(**changes)) != under(make_config())


# Checking before anything is asked


class GuardedServer(ChatServer):
    """Its list of models wants the key too, as OpenAI's does."""

    listed: int = 0

    def __enter__(self) -> "GuardedServer":
        super().__enter__()
        owner, handler = self, self.http.RequestHandlerClass
        answer_list = handler.do_GET

        def do_get(request: Any) -> None:
            owner.listed += 1
            sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if sent == owner.key:
                answer_list(request)
            else:
                request.send(
                    401, {"error": {"message": f"Incorrect API key provided: {sent}", "code": "invalid_api_key"}}
                )

        handler.do_GET = do_get
        return self


def test_both_llms_are_checked_without_a_chat_call_where_models_are_listed(
    make_config: MakeConfig, store: LabelStore
) -> None:
    with GuardedServer(LABELLER, key=KEY, models=["big", "little"]) as server:
        check_llms(make_config(server.url, api={"large_api_key": KEY, "small_api_key": KEY}), store)
        assert (server.listed, server.calls) == (2, 0)


def test_an_llm_that_has_answered_before_is_not_tried_again(make_config: MakeConfig, store: LabelStore) -> None:
    config = make_config()  # nobody answers there
    with pytest.raises(EndpointError):
        check_llms(config, store)
    for size, model in (("large", "big"), ("small", "little")):
        store.put_answer(key=size, kind="label", size=size, model=model, prompt=[], label="sports")
    check_llms(config, store)


@pytest.mark.parametrize(
    ("api", "error", "message"),
    [
        (
            {"large_api_key": "sk-wrongwrong123"},
            ChatRefusedError,
            r"does not accept the key .*Check api\.large_api_key\.",
        ),
        (
            {"small_api_key": "sk-wrongwrong123"},
            ChatRefusedError,
            r"does not accept the key .*Check api\.small_api_key\.",
        ),
        ({"small_api_key": ""}, ChatRefusedError, r"wants an API key\. Check api\.small_api_key\."),
        ({"large_model": "typo"}, ChatRefusedError, r"does not know the model typo .*Check api\.large_model\."),
        ({"small_model": "typo"}, ChatRefusedError, r"does not know the model typo .*Check api\.small_model\."),
        (
            {"small_base_url": "http://127.0.0.1:9/v1"},
            EndpointError,
            r"127\.0\.0\.1:9/v1 could not be reached .*Check api\.small_base_url",
        ),
        ({"small_api_key": "${NO_SUCH_KEY}"}, ConfigError, r"api\.small_api_key is \$\{NO_SUCH_KEY\}"),
        ({"small_mode": "local", "small_model": "/no/model"}, ModelNotFoundError, r"no model at '/no/model'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_sentence_before_anything_is_answered(
    api: dict[str, str],
    error: type[Exception],
    message: str,
    make_config: MakeConfig,
    store: LabelStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with GuardedServer(LABELLER, key=KEY, models=["big", "little"]) as server:
        config = make_config(server.url, api={"large_api_key": KEY, "small_api_key": KEY, **api})
        with pytest.raises(error, match=message) as raised:
            check_llms(config, store)
        assert "\n" not in str(raised.value)
        assert KEY not in str(raised.value)
        assert "wrongwrong" not in str(raised.value)
        # Nothing is paid for: at most the check's own short question, which was refused.
        assert not server.answered
        assert server.calls <= 1
        assert all(request["messages"][-1]["content"] == "Reply with the word OK." for request in server.requests)


def test_a_missing_key_is_found_before_any_endpoint_is_asked(
    make_config: MakeConfig, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with GuardedServer(LABELLER, key=KEY, models=["big"]) as server:
        with pytest.raises(ConfigError):
            check_llms(make_config(server.url, api={"large_api_key": KEY, "small_api_key": "${NO_SUCH_KEY}"}), store)
        assert (server.listed, server.calls) == (0, 0)


def test_an_endpoint_that_drops_every_call_is_given_up(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(lambda model, messages: DROP) as server, pytest.raises(EndpointError, match="could not be reached"):
        check_llms(make_config(server.url), store)


def test_an_endpoint_without_a_list_of_models_is_asked_one_short_question(
    make_config: MakeConfig, store: LabelStore
) -> None:
    with ChatServer(LABELLER) as server:
        check_llms(make_config(server.url), store)
        assert [(request["model"], request["max_tokens"]) for request in server.requests] == [
            ("big", 500),
            ("little", 500),
        ]
        check_llms(make_config(server.url), store)
        assert server.calls == 2  # that was an answer
    assert usage(make_config(), store)["calls"] == 2


def test_a_refused_model_is_asked_once_and_costs_nothing(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(lambda model, messages: Fault(404, "model not found", code="model_not_found")) as server:
        with pytest.raises(ChatRefusedError, match="does not know the model big"):
            check_llms(make_config(server.url, cost={**PRICES, "budget_usd": 1.0}), store)
        assert server.calls == 1
    assert store.write_off() == 0


def test_a_check_that_brought_nothing_costs_nothing(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(lambda model, messages: Fault(503, "loading")) as server, pytest.raises(EndpointError):
        check_llms(make_config(server.url, cost={**PRICES, "budget_usd": 1.0}), store)
    assert store.write_off() == 0


def test_the_short_question_is_not_asked_without_money_for_it(make_config: MakeConfig, store: LabelStore) -> None:
    with ChatServer(LABELLER) as server:
        with pytest.raises(BudgetError):
            check_llms(make_config(server.url, cost={**PRICES, "budget_usd": 0.001}), store)
        assert server.calls == 0


def test_a_local_model_needs_no_endpoint(make_config: MakeConfig, tiny_llm: Path, store: LabelStore) -> None:
    model = {"large_mode": "local", "large_model": str(tiny_llm), "small_mode": "local", "small_model": str(tiny_llm)}
    check_llms(make_config(api=model), store)


# What it has cost


def test_nothing_asked_costs_nothing(make_config: MakeConfig, store: LabelStore) -> None:
    assert usage(make_config(), store) == {
        "calls": 0,
        "failed": 0,
        "cached": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_usd": 0.0,
        "written_off_usd": 0.0,
        "by_size": {},
    }


def test_usage_counts_failed_calls_and_both_llms(make_config: MakeConfig, store: LabelStore) -> None:
    count(store, "large", 1_000_000, 500_000)
    count(store, "small", 2_000_000, 100_000)
    count(store, "small", 1_000_000, 300_000, failed=True)
    store.count_cached(["a", "b", "c", "d", "e"])
    prices = {
        "cost_per_million_large_input": 2.0,
        "cost_per_million_large_output": 8.0,
        "cost_per_million_small_input": 0.1,
        "cost_per_million_small_output": 0.5,
    }
    spent = usage(make_config(cost=prices), store)
    assert {name: spent[name] for name in ("calls", "failed", "cached", "prompt_tokens", "completion_tokens")} == {
        "calls": 3,
        "failed": 1,
        "cached": 5,
        "prompt_tokens": 4_000_000,
        "completion_tokens": 900_000,
    }
    # large: 1 x 2 + 0.5 x 8 = 6; small: 3 x 0.1 + 0.4 x 0.5 = 0.5
    assert spent["cost_usd"] == pytest.approx(6.5)
    assert spent["by_size"]["large"]["cost_usd"] == pytest.approx(6.0)
    assert spent["by_size"]["small"]["cost_usd"] == pytest.approx(0.5)
    assert (spent["by_size"]["small"]["calls"], spent["by_size"]["small"]["failed"]) == (2, 1)
    assert json.loads(json.dumps(spent)) == spent


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({}, None),
        ({"cost_per_million_small_input": 1.0}, None),
        ({"cost_per_million_large_input": 1.0, "cost_per_million_large_output": 1.0}, None),
        ({"cost_per_million_small_input": 1.0, "cost_per_million_small_output": 0.0}, 3.0),
        ({"cost_per_million_small_input": 0.0, "cost_per_million_small_output": 0.0}, 0.0),
    ],
)
def test_a_cost_is_unknown_only_where_a_price_that_is_needed_is(
    prices: dict[str, float], cost: float | None, make_config: MakeConfig, store: LabelStore
) -> None:
    count(store, "small", 3_000_000, 1_000_000)
    assert usage(make_config(cost=prices), store)["cost_usd"] == cost


def test_one_unknown_price_makes_the_sum_unknown_but_not_the_other_llms_cost(
    make_config: MakeConfig, store: LabelStore
) -> None:
    for size in ("large", "small"):
        count(store, size, 1_000_000, 0)
    prices = {"cost_per_million_small_input": 1.0, "cost_per_million_small_output": 1.0}
    spent = usage(make_config(cost=prices), store)
    assert (spent["cost_usd"], spent["by_size"]["small"]["cost_usd"]) == (None, 1.0)
    assert spent["by_size"]["large"]["cost_usd"] is None


def test_a_local_model_costs_nothing_whatever_the_prices(make_config: MakeConfig, store: LabelStore) -> None:
    count(store, "small", 1_000_000, 1_000_000)
    local = {"small_mode": "local"}
    prices = {"cost_per_million_small_input": 1.0, "cost_per_million_small_output": 1.0}
    for changes in ({"api": local}, {"api": local, "cost": prices}):
        assert usage(make_config(**changes), store)["cost_usd"] == 0.0
