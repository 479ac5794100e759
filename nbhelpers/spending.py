"""A hard stop on what may be spent: `cost.budget_usd`, over all runs on one output folder.

A call counts as spent, at the most that it can cost, before it is sent, and at what it did cost once it is answered.
The note of a call under way is on disk, so one whose run was killed still counts. Where nobody says what an attempt
cost, one that took too long counts with the longest reply, and one that broke off with its question.
"""

import asyncio
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from nbhelpers.config import Config, Size
from nbhelpers.errors import BudgetError
from nbhelpers.label_store import LabelStore
from nbhelpers.prompt_files import Message

SIZES: tuple[Size, ...] = ("large", "small")
_OVERHEAD_TOKENS = 50  # what a chat format adds around the messages


class Budget:
    """What is left of the budget, for the calls of one event loop; without `cost.budget_usd` it lets all pass.

    Raises:
        RunFolderError: the label store cannot be used.
    """

    def __init__(self, config: Config, store: LabelStore) -> None:
        self.limit = config.cost.budget_usd
        self._store = store
        self._prices = {size: config.price_of(size) for size in SIZES}
        note_prices(config, store)
        self._counted: dict[str, float] = {}  # by call that is not over: the most it can cost, or has cost so far
        self._sent: set[str] = set()  # those under way; the others wait for money
        self._changed = asyncio.Event()
        self.spent = 0.0
        if self.limit is not None:
            calls = store.usage().to_dict("records")
            self.spent = sum(paid(row, config, store) or 0.0 for row in calls) + store.write_off()

    async def admit(
        self,
        key: str,
        size: Size,
        messages: Sequence[Message],
        max_tokens: int,
        lost: tuple[int, int] = (0, 0),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Waits until the call under `key` can be paid for whatever it costs, and counts it as spent.

        Args:
            key: the answer's; one call at a time.
            size: "large" or "small".
            messages: what is sent.
            max_tokens: the longest reply.
            lost: tokens sent and received in attempts of this call that brought nothing.
            extra: more parameters that are sent; a schema is read by the model, and billed.
        Raises:
            BudgetError: what is left does not suffice, and no call is under way that could cost less than feared.
        """
        if self.limit is None:
            return
        written = "".join([*(turn["content"] for turn in messages), json.dumps(extra or {})])
        tokens = len(written.encode()) + _OVERHEAD_TOKENS  # a token is at least one byte
        gone = self._cost(size, *lost)
        most = gone + self._cost(size, tokens, max_tokens)
        if key in self._sent:  # its last attempt is over
            self._sent.remove(key)
            self._store.reserve(key, gone)
        self._counted[key] = gone
        while self.spent + sum(self._counted.values()) - gone + most > self.limit:
            if not self._sent:
                left = self.limit - self.spent - sum(self._counted.values())
                raise BudgetError(
                    f"cost.budget_usd is {self.limit:g}: {max(0.0, left):.6g} dollars are left, and the next call to "
                    f"the {size} model may cost {most - gone:.6g}. Raise it to go on; what was answered is kept."
                )
            self._changed.clear()
            await self._changed.wait()
        self._sent.add(key)
        self._counted[key] = most
        self._store.reserve(key, most)

    def settle(self, key: str, size: Size, prompt_tokens: int, completion_tokens: int) -> None:
        """The call is over, and its answer or failure stored: it counts at what it cost."""
        if self.limit is None:
            return
        self._end(key, self._cost(size, prompt_tokens, completion_tokens))

    def abandon(self, key: str, size: Size, lost: tuple[int, int] | None) -> None:
        """The call ended without an answer that is stored: it stays spent at what it lost, or the most it can cost.

        Args:
            key, size: as for `admit`.
            lost: tokens sent and received in its attempts; None where that is not known.
        """
        if lost is not None and key in self._sent:
            self._store.reserve(key, self._cost(size, *lost))
        self._end(key, self._counted.get(key, 0.0) if lost is None else self._cost(size, *lost))

    def _end(self, key: str, dollars: float) -> None:
        self._counted.pop(key, None)
        self._sent.discard(key)
        self.spent += dollars
        self._changed.set()

    def _cost(self, size: Size, prompt_tokens: float, completion_tokens: float) -> float:
        sent, received = self._prices[size]
        return (prompt_tokens * (sent or 0.0) + completion_tokens * (received or 0.0)) / 1e6


def note_prices(config: Config, store: LabelStore) -> None:
    """Keeps what the two LLMs cost, for when they are exchanged for others."""
    for size in SIZES:
        name, price = _price_of(size, config.api_of(size).model), json.dumps(config.price_of(size))
        if None not in config.price_of(size) and store.finding(name) != price:
            store.note_finding(name, price)


def paid(row: Mapping[Hashable, Any], config: Config, store: LabelStore) -> float | None:
    """Dollars for calls to one LLM; None where a price that is needed is not known.

    The LLMs of the config cost what it says; an earlier one, what it cost when it was in the config with its price, or
    else what the one in its place costs.

    Args:
        row: size, model, prompt_tokens and completion_tokens, as `LabelStore.usage` gives them.
    """
    size: Size = row["size"]
    known = store.finding(_price_of(size, row["model"])) if row["model"] != config.api_of(size).model else None
    sent, received = config.price_of(size) if known is None else json.loads(known)
    if sent is None or received is None:
        return None
    return float((row["prompt_tokens"] * sent + row["completion_tokens"] * received) / 1e6)


def _price_of(size: Size, model: str) -> str:
    return f"price of {model} ({size})"
