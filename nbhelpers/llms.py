"""The two LLMs of a config, and what they have cost so far."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbhelpers.chat import CHECK, CHECK_MAX_TOKENS, STOP, ApiChat, ChatSettings, run_async
from nbhelpers.config import Config, Size, secret
from nbhelpers.errors import ChatError, ChatRefusedError
from nbhelpers.label_store import LabelStore, answer_key
from nbhelpers.lock import one_step
from nbhelpers.models import find_model
from nbhelpers.prompt_files import Message
from nbhelpers.spending import Budget, note_prices, paid

if TYPE_CHECKING:
    import pandas as pd

TEMPERATURE = 0.2  # as the original; low, so that a repeated question gets the same answer
SAMPLING_TEMPERATURE = 0.7  # of further answers to the same question, which are to differ where the model is not sure


def chat_settings(config: Config, size: Size, *, max_tokens: int, temperature: float = TEMPERATURE) -> ChatSettings:
    """How to call the "large" or "small" LLM through its endpoint.

    Raises:
        ConfigError: its key is not in the environment.
    """
    api = config.api_of(size)
    return ChatSettings(
        model=api.model,
        base_url=api.base_url,
        api_key=secret(api.api_key, key=f"api.{size}_api_key"),
        size=size,
        concurrency=config.system.concurrency_limit,
        completion_mode=config.system.completion_mode,
        stop=STOP if config.system.use_stop else (),
        temperature=temperature,
        max_tokens=max_tokens,
        timeout_seconds=config.labeling.timeout_seconds,
        patience_seconds=config.labeling.patience_seconds,
    )


def stored_under(config: Config, size: Size, *, text: str, prompt: Sequence[Message], sample: int = 0) -> str:
    """The label store's key of an LLM's answer.

    Args:
        config: model, classes and parameters.
        size: "large" or "small".
        text: the text asked about; "" where there is none.
        prompt: the messages with the text's place left open.
        sample: 0 for the answer as such; from 1 on, further answers to the same question.
    """
    api = config.api_of(size)
    parameters: dict[str, Any] = {
        "classes": config.classification.classes,
        "temperature": SAMPLING_TEMPERATURE if sample else TEMPERATURE,
        "completion_mode": config.system.completion_mode,
        "use_stop": config.system.use_stop,
    }
    if sample:
        parameters["sample"] = sample
    return answer_key(text=text, prompt=prompt, model=api.model, mode=api.mode, parameters=parameters)


def samples_of(config: Config, size: Size) -> int:
    """How many answers an LLM gives to each text where its endpoint tells no probabilities."""
    return config.labeling.label_samples if size == "small" and config.api_of(size).mode == "api" else 1


def check_llms(config: Config, store: LabelStore, *, sizes: Sequence[Size] = ("large", "small")) -> None:
    """Finds out, before more is paid than for one word, whether the LLMs can be asked.

    Args:
        config: the two LLMs.
        store: an LLM that has answered before, on this run folder, is not tried again; counts what is asked.
        sizes: which of them.
    Raises:
        ConfigError: a key is not in the environment.
        ModelNotFoundError: a local model is not to be had.
        ChatRefusedError, EndpointError: an endpoint cannot be reached, refuses the key or does not know the model.
        BudgetError: what is left of the budget does not suffice for one word.
    """

    settings = [
        chat_settings(config, size, max_tokens=CHECK_MAX_TOKENS) for size in sizes if config.api_of(size).mode == "api"
    ]
    for size in sizes:
        if config.api_of(size).mode == "local":
            find_model(config.api_of(size).model)
    for one in settings:
        if one.model not in store.models():
            with one_step(store.path.parent):
                run_async(_check(one, config, store))


async def _check(settings: ChatSettings, config: Config, store: LabelStore) -> None:
    size: Size = "large" if settings.size == "large" else "small"
    key, budget = stored_under(config, size, text="", prompt=CHECK), Budget(config, store)

    async def admit(lost: tuple[int, int]) -> None:
        await budget.admit(key, size, CHECK, CHECK_MAX_TOKENS, lost)

    call: dict[str, Any] = {"key": key, "kind": "check", "size": size, "model": settings.model}
    try:
        async with ApiChat(settings) as chat:
            reply = await chat.check(admit=admit)
    except ChatError as error:
        budget.abandon(key, size, error.lost)
        if isinstance(error, ChatRefusedError):  # which costs nothing, however often it is tried
            store.record_failure(**call, reason=str(error))
        raise
    if reply is not None:
        store.put_answer(**call, prompt=CHECK, reply=reply.text, usage=reply)


def usage(config: Config, store: LabelStore) -> dict[str, Any]:
    """Calls, tokens and dollars over all runs on this folder; the `llm` part of report.json.

    `cost_usd` is None where a price that is needed is not known (see `spending.paid`). `written_off_usd`
    is what calls may have cost whose run was killed before the answer came (known with a budget only).
    """
    note_prices(config, store)
    table = store.usage()
    table["cost_usd"] = [paid(row, config, store) for row in table.to_dict("records")]
    counts = ["calls", "failed", "prompt_tokens", "completion_tokens"]
    by_size = {
        size: {**{name: int(rows[name].sum()) for name in counts}, "cost_usd": _sum(rows["cost_usd"])}
        for size, rows in table.groupby("size")
    }
    total = {name: int(table[name].sum()) for name in counts}
    cost = _sum(table["cost_usd"])
    return {
        **total,
        "cached": store.cached(),
        "cost_usd": None if cost is None else round(cost, 6),
        "written_off_usd": store.written_off(),
        "by_size": by_size,
    }


def _sum(dollars: "pd.Series[float]") -> float | None:
    """None where one of them is not known."""
    return None if dollars.isna().any() else float(dollars.sum())
