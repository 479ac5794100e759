"""What an OpenAI-compatible endpoint sends, as a reply or as what it says went wrong. Pure: no disk and no network.

Servers differ in all of it, so everything is looked for and nothing relied on.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbhelpers.prompt_files import Message

if TYPE_CHECKING:
    import openai

_FILTERED = re.compile(r"content_filter|content_policy|content management policy", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context_length|context (?:length|window|size)|too many tokens|prompt is too long", re.IGNORECASE
)
_CUT_OFF = re.compile(r"could not finish the message|max_tokens or model output limit was reached", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """One token of a reply: its text, log-probability, and the likeliest tokens in its place (itself among them)."""

    text: str
    logprob: float
    alternatives: Mapping[str, float]


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered.

    `finish_reason` is the endpoint's word ("stop", "length", "content_filter"), or ours where it refused this one
    prompt: "context_length" (too long), "not_taken" (with the `extra` parameters that came with it) or "refused".
    Tokens are counted as four characters each where it does not tell, and include replies that had to be thrown away.
    `seconds` is the time of the last request, without waits and retries. `tokens` are there where they were asked for
    and given.
    """

    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    tokens: Sequence[Token] | None = None


def as_reply(body: str, messages: Sequence[Message], seconds: float) -> Reply | None:
    """The reply in an answer's body, None if there is none in it."""
    try:
        choice = json.loads(body)["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        text = message.get("content")
        if isinstance(text, list):
            text = "".join(part.get("text") or "" for part in text)
        if text is None:
            text = message.get("refusal")
        if text is not None:  # half a surrogate pair can be escaped in JSON, but not stored as UTF-8
            text = text.encode("utf-8", "replace").decode("utf-8")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    used = used_tokens(body)
    return Reply(
        text=text,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=used[0] or estimate_tokens(messages),
        completion_tokens=used[1] or (len(text) // 4 + 1 if text else 0),
        seconds=seconds,
        tokens=_tokens(choice),
    )


def _tokens(choice: Mapping[str, Any]) -> list[Token] | None:
    """The log-probabilities in an answer, None where there are none in the form of chat completions."""
    try:
        return [
            Token(
                str(entry["token"]),
                float(entry["logprob"]),
                {str(other["token"]): float(other["logprob"]) for other in entry.get("top_logprobs") or []},
            )
            for entry in choice["logprobs"]["content"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Tokens of a prompt, at four characters each."""
    return sum(len(turn["content"]) for turn in messages) // 4 + 1


def without_answer(error: openai.APIStatusError, seconds: float) -> Reply | None:
    """A reply without text where the endpoint refuses this one prompt, not the request as such."""
    if error.status_code not in (400, 413, 422):
        return None
    text = details_of(error)
    for reason, pattern in (("content_filter", _FILTERED), ("context_length", _TOO_LONG), ("length", _CUT_OFF)):
        if pattern.search(text):
            return Reply(None, reason, 0, 0, seconds)
    return None


def used_tokens(body: str) -> tuple[int, int]:
    """Tokens sent and received, as a body tells them; 0 where it does not."""
    try:
        usage = json.loads(body)["usage"]
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0, 0


def retry_after(value: str | None) -> float:
    """Seconds to wait at least, from a Retry-After header: a number, or a date."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if seconds == seconds else 0.0


def message_of(error: openai.APIStatusError) -> str:
    """What the endpoint says about an error."""
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        message = (inner.get("message") or inner.get("detail")) if isinstance(inner, Mapping) else inner
        return str(message or json.dumps(body))
    return str(body or "no reason given")


def details_of(error: openai.APIStatusError) -> str:
    """All that came with an error, for patterns to be looked for in."""
    return f"{error.code} {json.dumps(error.body, ensure_ascii=False, default=str)}".replace('\\"', '"')


def cause_of(error: openai.APIConnectionError) -> str:
    """What went wrong with a connection, such as "All connection attempts failed"."""
    return str(error.__cause__ or "") or type(error.__cause__ or error).__name__
