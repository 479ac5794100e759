"""What endpoints send, read on its own; tests/test_chat.py sends it over a real connection."""

import json
from typing import Any

import pytest

from nbhelpers.completions import Token, as_reply, retry_after

MESSAGES: Any = [{"role": "user", "content": "x" * 40}]


def body(**choice: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": "Final label: a"}, **choice}]})


def test_retry_after_may_be_a_date() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e6
    assert [retry_after(value) for value in (None, "soon", "nan", "-1", "2.5")] == [0.0, 0.0, 0.0, 0.0, 2.5]


def test_log_probabilities_come_with_their_alternatives() -> None:
    entry = {
        "token": "a",
        "logprob": -0.1,
        "top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -2}],
    }
    reply = as_reply(body(logprobs={"content": [entry, {"token": "!", "logprob": 0}]}), MESSAGES, 0.5)
    assert reply is not None
    assert reply.tokens == [Token("a", -0.1, {"a": -0.1, "b": -2.0}), Token("!", 0.0, {})]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "a"}]}, {"tokens": ["a"]}, 3])
def test_log_probabilities_in_another_form_are_none(logprobs: Any) -> None:
    reply = as_reply(body(logprobs=logprobs), MESSAGES, 0.5)
    assert reply is not None
    assert (reply.text, reply.tokens) == ("Final label: a", None)
