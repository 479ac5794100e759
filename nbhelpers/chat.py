"""LLMs behind an OpenAI-compatible endpoint: asked concurrently, with retries, and errors that say what to do.

The only module that calls the openai package. It sends prompts and returns replies as they are; what an endpoint's
answer holds (completions.py), what a reply means (replies.py), and that nothing is paid for twice (label_store.py), is
not its concern. All retries are made here, not in the openai client, so that a reply which is no JSON is retried like
a lost connection and the waits have one limit.
"""

import asyncio
import contextlib
import contextvars
import json
import math
import random
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import openai

from nbhelpers.completions import (
    Reply,
    as_reply,
    cause_of,
    details_of,
    estimate_tokens,
    message_of,
    retry_after,
    used_tokens,
    without_answer,
)
from nbhelpers.errors import CallFailedError, ChatError, ChatRefusedError, EndpointError
from nbhelpers.prompt_files import Message, as_completion
from nbhelpers.throttle import Throttle

T = TypeVar("T")

# Sent where `use_stop` is on: the turn ends of common local models, and the heading that as_completion writes.
# Four at most, as OpenAI takes no more.
STOP = ("<|eot_id|>", "<|im_end|>", "</s>", "### Instruction")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 120.0
TOLD_AFTER_SECONDS = 5.0  # without any answer
RETRIED = frozenset({408, 409, 425, 429})  # and every 5xx
EXTRA_REFUSED = frozenset({400, 403, 404, 422, 501})  # how an endpoint says that it does not take `extra` parameters
EXTRA_ATTEMPTS = 3  # with them, where each ends in a 500 and none was ever taken: some crash at what they do not take
CHECK: list[Message] = [{"role": "user", "content": "Reply with the word OK."}]
CHECK_MAX_TOKENS = 500  # a model that thinks needs them before it says OK

# A 400 that says, in one of many wordings, that a parameter is not taken (newer models refuse some).
_NOT_TAKEN = re.compile(
    r"unsupported|not support|n.t support|unrecognized|unknown|unexpected|not permitted|extra (?:inputs|fields)"
    r"|not allowed|deprecated|only one|does not accept|must be array of max length",
    re.IGNORECASE,
)
_OUT_OF_CREDIT = re.compile(
    r"insufficient_quota|billing|exceeded your current quota|insufficient (?:credit|balance)", re.I
)
_KEY_LIKE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|key|Bearer)[-_ ][\w.*-]{6,}|\S*\*{3,}\S*")


@dataclass(frozen=True)
class _Trouble:
    """Why an attempt brought no reply, and how long the endpoint asks to wait; `crashed` is a 500."""

    problem: str
    least_wait: float = 0.0
    unreachable: bool = False
    too_many: bool = False
    crashed: bool = False


@dataclass(frozen=True)
class ChatSettings:
    """Whom to ask, and how.

    `api_key` is the secret itself, already resolved, and is shown nowhere; "" for servers without keys. `size`
    ("large" or "small") only lets an error name the config's key. With `completion_mode` a conversation is sent as one
    text to the endpoint's /completions. None for a parameter leaves it to the endpoint. An endpoint that has answered
    before and then answers nothing at all is given up after `patience_seconds`; a call that failed more than
    `max_retries` times while others were answered is given up alone.
    """

    model: str
    base_url: str | None = None
    api_key: str = field(default="", repr=False)
    size: str = ""
    concurrency: int = 16
    completion_mode: bool = False
    stop: tuple[str, ...] = ()
    temperature: float | None = 0.2
    top_p: float | None = None
    max_tokens: int | None = 1500
    timeout_seconds: float = 120.0
    patience_seconds: float = 300.0
    max_retries: int = 6

    @property
    def where(self) -> str:
        """The endpoint's address, without a user name or password in it."""
        parts = urlsplit(self.base_url or "https://api.openai.com/v1")
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))

    def key(self, name: str) -> str:
        """What the config calls a setting: "model" -> "api.large_model"."""
        return f"api.{self.size}_{name}" if self.size else name


class ApiChat:
    """One LLM behind an endpoint: `async with ApiChat(settings) as chat: reply = await chat.complete(messages)`.

    Args:
        settings: whom to ask, and how.
        at_once: how many calls at once the endpoint took before, where that is known; see `at_once`.
        answered_before: whether it has ever answered. One that has is waited for from the first call on.
    Raises:
        ChatRefusedError: the key or the address cannot be one.
    """

    def __init__(self, settings: ChatSettings, *, at_once: int | None = None, answered_before: bool = False) -> None:
        self.settings = settings
        self._answered_before = answered_before
        self._throttle = Throttle(settings.concurrency, known=at_once)
        if re.search(r"[^\x21-\x7e]", settings.api_key):
            raise ChatRefusedError(
                f"{settings.key('api_key')} holds a space or another character that no key has. Copy the key again."
            )
        try:
            _ = urlsplit(settings.where).port
        except ValueError:
            raise ChatRefusedError(f"{settings.key('base_url')} is {settings.where}, which is no address.") from None
        parameters = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "stop": list(settings.stop) or None,
        }
        self._parameters: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}

    async def __aenter__(self) -> Self:
        self._last_answer: float | None = None
        self._taken = self._extra_taken = False  # whether a prompt was, and whether one with `extra` parameters
        self._told = False
        self._client = openai.AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self.settings.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(self.settings.timeout_seconds, connect=min(10.0, self.settings.timeout_seconds)),
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_acknowledge]}),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    @property
    def at_once(self) -> int | None:
        """How many calls at once the endpoint takes; None while that is still being found out."""
        return self._throttle.known

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
        admit: Callable[[tuple[int, int]], Awaitable[None]] | None = None,
    ) -> Reply:
        """Asks the LLM once, with as many calls under way as the endpoint takes and `settings.concurrency` allows.

        Args:
            messages: the conversation so far.
            max_tokens: in place of the settings'.
            extra: more parameters, such as response_format; an endpoint may not take them.
            admit: awaited before each request is sent, with the tokens (sent, received) of attempts that brought
                nothing; what it raises ends the call.
        Returns:
            The reply; its text is None where the model answered with nothing. Where this one prompt is refused, its
            finish_reason is "refused", and its text why.
        Raises:
            ChatRefusedError: asking again would not help (key, model, request); says what to change.
            EndpointError: the endpoint answers nothing at all; says how long it was tried.
            CallFailedError: this call kept failing while others were answered.
            Each has the tokens that its attempts used, `lost`; None where the last one broke off midway.
        """
        started, attempts, lost, broke_off = time.monotonic(), 0, (0, 0), False
        failed_at, alone = started, 0  # how often it failed though others were answered since its last failure
        while True:
            await self._throttle.acquire()
            placed = True
            try:
                while True:
                    if admit is not None:
                        await admit(lost)
                    broke_off = False
                    outcome, used = await self._attempt(messages, max_tokens, extra or {})
                    lost = _added(lost, used)
                    if isinstance(outcome, ChatRefusedError):
                        if not self._taken and messages is not CHECK:  # does it refuse this prompt, or every one?
                            if admit is not None:
                                await admit(lost)
                            lost = _added(lost, await self._probe())
                        if not self._taken:
                            raise outcome from None
                        outcome = Reply(str(outcome), "refused", 0, 0, 0.0)
                    if isinstance(outcome, Reply):
                        self._answered()
                        if outcome.finish_reason not in ("not_taken", "refused"):
                            self._taken = True
                            self._extra_taken |= bool(extra)
                        placed = False
                        self._throttle.served()
                        return _with_tokens(outcome, *lost)
                    attempts += 1
                    if outcome.crashed and extra and not self._extra_taken and attempts >= EXTRA_ATTEMPTS:
                        return Reply(None, "not_taken", *lost, 0.0)
                    broke_off = outcome.unreachable and used != (0, 0)
                    # An endpoint that is told to hurry answers later: waits grow, and are never quite the same.
                    wait = min(FIRST_WAIT_SECONDS * 2 ** min(attempts - 1, 10), LONGEST_WAIT_SECONDS)
                    wait = max(wait, outcome.least_wait) * (1 + 0.25 * random.random())
                    alone += not outcome.too_many and self._last_answer is not None and self._last_answer > failed_at
                    failed_at = time.monotonic()
                    self._give_up(outcome, attempts, alone, started, lost)
                    self._tell(outcome, started)
                    if attempts > self.settings.max_retries and not outcome.too_many:
                        if admit is not None:  # the probe costs no more than the call for whose sake it is sent
                            await admit(lost)
                        lost = _added(lost, await self._probe())
                    if outcome.too_many:
                        placed = False
                        self._throttle.refused(wait)
                        break
                    # The place is kept while waiting: an endpoint in trouble is asked less, not more.
                    await asyncio.sleep(min(wait, self._patience_left(started)))
            except (ChatRefusedError, EndpointError) as error:
                error.lost = None if broke_off else lost  # a request that is refused costs nothing
                raise
            finally:
                if placed:
                    self._throttle.release()
            await asyncio.sleep(wait)

    async def check(self, *, admit: Callable[[tuple[int, int]], Awaitable[None]] | None = None) -> Reply | None:
        """Finds out, for next to nothing, whether the endpoint can be reached, takes the key and knows the model.

        Its list of models settles that; only where the model is not on it is one short question (CHECK) asked. What
        cannot be reached is given up after three attempts.

        Args:
            admit: as for `complete`.
        Returns:
            The reply to the question; None where none was asked.
        Raises:
            ChatRefusedError, EndpointError: as `complete`.
        """
        started, attempts = time.monotonic(), 3
        known: set[object] = set()
        for attempt in range(1, attempts + 1):
            try:
                raw = await self._client.models.with_raw_response.list(timeout=10)
                known = {entry["id"] for entry in json.loads(raw.text)["data"]}
            except openai.APIConnectionError as error:
                if not isinstance(error, openai.APITimeoutError) or _never_sent(error):
                    if attempt == attempts:
                        trouble = _Trouble(self._clean(cause_of(error)), unreachable=True)
                        raise self._gave_up(trouble, attempt, started) from None
                    await asyncio.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
                    continue
                # slow in listing is not slow in answering
            except (openai.OpenAIError, ValueError, TypeError, KeyError):
                pass  # whatever is wrong with the list, the question below shows whether it matters
            break
        return None if self.settings.model in known else await self.complete(CHECK, admit=admit)

    async def _attempt(
        self, messages: Sequence[Message], max_tokens: int | None, extra: Mapping[str, Any]
    ) -> tuple[Reply | _Trouble | ChatRefusedError, tuple[int, int]]:
        """One request; the tokens are those of an answer that has to be thrown away.

        A refusal that may be of this prompt alone is returned; others are raised.
        """
        nothing = (0, 0)
        while True:
            sent, asked = {**self._parameters, **extra}, time.monotonic()
            if max_tokens is not None:
                name = "max_completion_tokens" if "max_completion_tokens" in sent else "max_tokens"
                sent[name] = max_tokens
            try:
                body = await self._post(messages, sent)
            except openai.APIStatusError as error:
                reply = without_answer(error, time.monotonic() - asked)
                if reply is not None:
                    return reply, nothing
                if self._gives_up_parameter(error, {name: sent[name] for name in sent if name not in extra}):
                    max_tokens = None
                    continue
                if error.status_code in EXTRA_REFUSED and extra:
                    return Reply(None, "not_taken", 0, 0, time.monotonic() - asked), nothing
                refusal = self._refusal(error)
                if refusal is not None and error.status_code in (400, 413, 422):
                    return refusal, nothing
                if refusal is not None:
                    raise refusal from None
                wait = retry_after(error.response.headers.get("retry-after"))
                status, problem = error.status_code, f"{error.status_code}: {self._clean(message_of(error))}"
                return _Trouble(problem, wait, too_many=status == 429, crashed=status == 500), nothing
            except openai.APIConnectionError as error:
                if _never_sent(error):
                    return _Trouble(self._clean(cause_of(error)), unreachable=True), nothing
                asked_for = estimate_tokens(messages)
                if isinstance(error, openai.APITimeoutError):  # it may well have been worked on, and billed
                    longest = max_tokens or self.settings.max_tokens or 0
                    return _Trouble(f"no answer within {self.settings.timeout_seconds:g} s"), (asked_for, longest)
                return _Trouble(self._clean(cause_of(error)), unreachable=True), (asked_for, 0)
            reply = as_reply(body, messages, time.monotonic() - asked)
            if reply is not None:
                return reply, nothing
            sent_tokens, received = used_tokens(body)
            used = (sent_tokens or estimate_tokens(messages), received or len(body) // 4)  # broken, but billed
            return _Trouble(f"it did not send a chat completion but {self._clean(body)!r}"), used

    async def _post(self, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
        """The body of the answer as text: read here, not by the client, as not every server sends what it should.

        The request goes out as it is, too: the client's own methods walk through every message for its types.
        """
        body: dict[str, Any] = {"model": self.settings.model, **parameters}
        if self.settings.completion_mode:
            return await self._client.post(
                "/completions", cast_to=str, body={**body, "prompt": as_completion(messages)}
            )
        return await self._client.post("/chat/completions", cast_to=str, body={**body, "messages": list(messages)})

    def _gives_up_parameter(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Whether the endpoint refused a parameter that can be left out (or renamed); from now on it is."""
        text = details_of(error)
        if error.status_code not in (400, 422) or not _NOT_TAKEN.search(text):
            return False
        # "stop" is an English word too, so a name counts in quotes only, or where it is a word of its own with a "_".
        named = [
            name for name in sent if re.search(rf"['\"`]{name}['\"`]" + (rf"|\b{name}\b" if "_" in name else ""), text)
        ]
        if error.param is not None and error.param in sent:
            named = [error.param]
        elif "top_p" in named and "temperature" in named:
            named = ["top_p"]  # "cannot both be specified"
        for name in named[:1]:
            value = self._parameters.pop(name, None)
            if name == "max_tokens" and value is not None:
                self._parameters["max_completion_tokens"] = value
        return bool(named)

    def _refusal(self, error: openai.APIStatusError) -> ChatRefusedError | None:
        """The error to raise where asking again would not help, else None."""
        ask, status, said = self.settings, error.status_code, self._clean(message_of(error))
        key, model = ask.key("api_key"), ask.model
        if status == 402 or (status in (403, 429) and _OUT_OF_CREDIT.search(details_of(error))):
            problem, remedy = f"has no credit left for the model {model} ({said})", f"Add credit for {key}"
        elif status in RETRIED or status >= 500:
            return None
        elif status == 401:  # the server's own words are left out, as some repeat the key
            problem = f"does not accept the key for the model {model}" if ask.api_key else "wants an API key"
            remedy = f"Check {key}"
        elif status == 403:
            problem, remedy = f"refuses access to the model {model} ({said})", f"Check that {key} may use it"
        elif status == 404 and "model" in details_of(error).lower():
            problem, remedy = f"does not know the model {model} ({said})", f"Check {ask.key('model')}"
        elif status in (404, 405) or status < 400:
            problem = f"is no endpoint for the model {model} ({status})"
            remedy = f"Check {ask.key('base_url')}, which usually ends in /v1, and {ask.key('model')}"
        else:
            problem = f"refuses the request to the model {model} ({status}: {said})"
            remedy = f"Check {ask.key('model')} and the prompt"
        return ChatRefusedError(f"{ask.where} {problem}. {remedy}.")

    def _give_up(self, trouble: _Trouble, attempts: int, alone: int, started: float, lost: tuple[int, int]) -> None:
        """Raises where it is no use to go on: for the endpoint as a whole, or for this one call."""
        if trouble.least_wait > LONGEST_RETRY_AFTER_SECONDS:
            raise self._gave_up(
                replace(trouble, problem=f"{trouble.problem}, and asks to wait {trouble.least_wait:.0f} s"),
                attempts,
                started,
            )
        tried_enough, silent = attempts > self.settings.max_retries, self._silence(started)
        if tried_enough if self._new else silent > self.settings.patience_seconds:
            raise self._gave_up(trouble, attempts, time.monotonic() - silent)
        if alone > self.settings.max_retries and not trouble.too_many:
            raise CallFailedError(f"no usable answer in {attempts} attempts ({trouble.problem})", lost)

    async def _probe(self) -> tuple[int, int]:
        """Asks what any model can answer: is the endpoint silent, or does this one call fail? The tokens used."""
        outcome, used = await self._attempt(CHECK, CHECK_MAX_TOKENS, {})
        if not isinstance(outcome, Reply):
            return used
        self._taken = True
        self._answered()
        return outcome.prompt_tokens, outcome.completion_tokens

    def _answered(self) -> None:
        self._last_answer, self._told = time.monotonic(), False

    @property
    def _new(self) -> bool:
        """Whether it is still open if the endpoint answers at all; then the attempts count, not the time."""
        return self._last_answer is None and not self._answered_before

    def _silence(self, started: float) -> float:
        """Seconds without any answer, for a call that began at `started`."""
        return time.monotonic() - max(self._last_answer or started, started)

    def _patience_left(self, started: float) -> float:
        """Seconds until the last attempt."""
        return math.inf if self._new else max(0.1, self.settings.patience_seconds - self._silence(started))

    def _tell(self, trouble: _Trouble, started: float) -> None:
        """Says, once in each outage, why nothing happens and how long that may last."""
        ask = self.settings
        if self._told or self._silence(started) < TOLD_AFTER_SECONDS:
            return
        self._told, limit = True, f"{ask.max_retries + 1} times"
        if not self._new:
            limit = f"for {ask.patience_seconds:g} s (labeling.patience_seconds)"
        print(f"{ask.where} gives no answer ({trouble.problem}). It is tried {limit}, then the run stops.", flush=True)

    def _gave_up(self, trouble: _Trouble, attempts: int, started: float) -> ChatError:
        ask, seconds = self.settings, time.monotonic() - started
        what = "could not be reached" if trouble.unreachable else f"gave no usable answer from the model {ask.model}"
        return EndpointError(
            f"{ask.where} {what} in {attempts} {'attempt' if attempts == 1 else 'attempts'} over {seconds:.0f} s "
            f"({trouble.problem}). Check {ask.key('base_url')} and that the server runs, then start again."
        )

    def _clean(self, text: str) -> str:
        """What a server said, short and without anything of the key: some servers repeat it, or a part of it."""
        key = self.settings.api_key
        if key:
            text = text.replace(key, "(key)").replace(quote(key, safe=""), "(key)")
            parts = {key[start : start + 8] for start in range(len(key) - 7)}
            text = " ".join("(key)" if any(part in word for part in parts) else word for word in text.split())
        flat = " ".join(_KEY_LIKE.sub("(key)", text).split())
        return flat if len(flat) <= 200 else flat[:199] + "…"


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end from ordinary code, in a notebook too, where an event loop is already running.

    It runs in a loop of its own in another thread. Ctrl-C (or the notebook's stop button) cancels it, waits until it
    has cleaned up, and is raised.
    """
    outcome: Future[T] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        return await coroutine

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    # With the caller's context, so that what it prints lands below the notebook cell that started it.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="nbhelpers-chat", daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        for loop, task in running:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise


async def _acknowledge(response: Any) -> None:
    """Acknowledges the head of an answer at once, as many servers send its body only then.

    Python's own server is one of them, and so are small ones for local models. Linux would let them wait for 40 ms
    with every answer (Nagle's algorithm against delayed acknowledgement, RFC 1122, 4.2.3.2).
    """
    if hasattr(socket, "TCP_QUICKACK"):
        connection = response.extensions["network_stream"].get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _never_sent(error: openai.APIConnectionError) -> bool:
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")  # of httpx


def _added(some: tuple[int, int], more: tuple[int, int]) -> tuple[int, int]:
    return some[0] + more[0], some[1] + more[1]


def _with_tokens(reply: Reply, prompt_tokens: int, completion_tokens: int) -> Reply:
    return replace(
        reply,
        prompt_tokens=reply.prompt_tokens + prompt_tokens,
        completion_tokens=reply.completion_tokens + completion_tokens,
    )
