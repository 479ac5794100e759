"""A hard stop on what may be spent: `cost.budget_usd`, over all runs on one output folder.

A call counts as spent, at the most that it can cost, before it is sent, and at what it did cost once it is answered.
The note of a call under way is on disk, so one whose run was killed still counts.
"""

import asyncio
from collections.abc import Sequence

from nbhelpers.config import Config, Size
from nbhelpers.errors import BudgetError
from nbhelpers.label_store import LabelStore
from nbhelpers.prompt_files import Message

_OVERHEAD_TOKENS = 50  # what a chat format adds around the messages
_SAFETY = 1.5  # tokens a byte, over the most that was seen


class Budget:
    """What is left of the budget, for the calls of one event loop; without `cost.budget_usd` it lets all pass.

    Raises:
        RunFolderError: the label store cannot be used.
    """

    def __init__(self, config: Config, store: LabelStore) -> None:
        self.limit = config.cost.budget_usd
        self._store = store
        self._prices = {size: config.price_of(size) for size in ("large", "small")}
        self._under_way: dict[str, float] = {}
        self._tokens_a_byte: dict[Size, float] = {}  # the most that was seen; a token is at least one byte
        self._changed = asyncio.Event()
        self.spent = 0.0
        if self.limit is not None:
            used = store.usage().to_dict("records")
            answered = sum(self._cost(row["size"], row["prompt_tokens"], row["completion_tokens"]) for row in used)
            self.spent = answered + store.write_off()

    async def admit(
        self, key: str, size: Size, messages: Sequence[Message], max_tokens: int, lost: tuple[int, int] = (0, 0)
    ) -> None:
        """Waits until the call under `key` can be paid for whatever it costs, and counts it as spent.

        Args:
            key: the answer's; one call at a time.
            size: "large" or "small".
            messages: what is sent.
            max_tokens: the longest reply.
            lost: tokens sent and received in attempts of this call that brought nothing.
        Raises:
            BudgetError: what is left does not suffice, and no call is under way that could cost less than feared.
        """
        if self.limit is None:
            return
        written = sum(len(turn["content"].encode()) for turn in messages)
        tokens = min(1.0, _SAFETY * self._tokens_a_byte.get(size, 1.0)) * written + _OVERHEAD_TOKENS
        most = self._cost(size, tokens + lost[0], max_tokens + lost[1])
        self._under_way.pop(key, None)
        while self.spent + sum(self._under_way.values()) + most > self.limit:
            if not self._under_way:
                left = self.limit - self.spent
                raise BudgetError(
                    f"cost.budget_usd is {self.limit:g}: {max(0.0, left):.6g} dollars are left, and the next call to "
                    f"the {size} model may cost {most:.6g}. Raise it to go on; what was answered is kept."
                )
            self._changed.clear()
            await self._changed.wait()
        self._under_way[key] = most
        self._store.reserve(key, most)

    def settle(
        self, key: str, size: Size, messages: Sequence[Message], prompt_tokens: int, completion_tokens: int
    ) -> None:
        """The call is over, and its answer or failure stored: it counts at what it cost."""
        if self.limit is None:
            return
        self._under_way.pop(key, None)
        self.spent += self._cost(size, prompt_tokens, completion_tokens)
        written = sum(len(turn["content"].encode()) for turn in messages)
        ratio = min(1.0, prompt_tokens / max(1, written))
        if ratio:
            self._tokens_a_byte[size] = max(ratio, self._tokens_a_byte.get(size, 0.0))
        self._changed.set()

    def abandon(self, key: str) -> None:
        """The call under `key` ended without an answer or a known cost: it stays spent at the most it can cost."""
        if key in self._under_way:
            self.spent += self._under_way.pop(key)
            self._changed.set()

    def _cost(self, size: Size, prompt_tokens: float, completion_tokens: float) -> float:
        sent, received = self._prices[size]
        return (prompt_tokens * (sent or 0.0) + completion_tokens * (received or 0.0)) / 1e6
