"""Chat: real calls to a local server, with every fault that endpoints have."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from chat_server import BAD_JSON, DROP, NO_CHOICES, WEB_PAGE, ChatServer, Fault, Said, keyword_labeller

from nbhelpers import chat
from nbhelpers.chat import ApiChat, ChatSettings, run_async
from nbhelpers.completions import Reply
from nbhelpers.errors import CallFailedError, ChatRefusedError, EndpointError
from nbhelpers.prompt_files import Message

HELLO: list[Message] = [{"role": "user", "content": "hello"}]
KEY = "sk-verySecret1234567890"


def echo(model: str, messages: Sequence[dict[str, Any]]) -> str:
    return f"{model} heard {messages[-1]['content']}"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)


def settings(server: ChatServer, **more: Any) -> ChatSettings:
    return ChatSettings(**{"model": "m", "base_url": server.url, "api_key": KEY, "size": "small", **more})


def ask(server: ChatServer, messages: Sequence[Message] = HELLO, **more: Any) -> Reply:
    async def main() -> Reply:
        async with ApiChat(settings(server, **more)) as endpoint:
            return await endpoint.complete(messages)

    return asyncio.run(main())


def check(server_settings: ChatSettings) -> None:
    async def main() -> None:
        async with ApiChat(server_settings) as endpoint:
            await endpoint.check()

    asyncio.run(main())


def test_a_reply_has_its_text_tokens_and_time() -> None:
    with ChatServer(echo, latency=0.05) as server:
        reply = ask(server, stop=("END",))
        assert (reply.text, reply.finish_reason) == ("m heard hello", "stop")
        assert (reply.prompt_tokens, reply.completion_tokens) == (server.prompt_tokens, server.completion_tokens)
        assert 0.05 <= reply.seconds < 2
        assert server.requests == [
            {"model": "m", "messages": HELLO, "temperature": 0.2, "max_tokens": 1500, "stop": ["END"]}
        ]


def test_completion_mode_sends_one_text() -> None:
    with ChatServer(echo) as server:
        reply = ask(server, completion_mode=True)
        assert reply.text == "m heard hello"
        assert server.paths == ["/v1/completions"]
        assert server.requests[0]["prompt"] == "hello"


def test_no_key_is_fine_for_servers_without_keys() -> None:
    with ChatServer(echo, key="none") as server:
        assert ask(server, api_key="").text == "m heard hello"


@pytest.mark.parametrize(
    ("said", "text", "finish_reason"),
    [
        (None, None, "stop"),
        ("", "", "stop"),
        (Said("cut", finish_reason="length"), "cut", "length"),
        (Said(None, message={"refusal": "I cannot."}), "I cannot.", "stop"),
        (Said(None, message={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ab", "stop"),
        ("half a pair \ud83d", "half a pair ?", "stop"),
        (Fault(400, "flagged by the content management policy", code="content_filter"), None, "content_filter"),
        (Fault(400, "too long", code="context_length_exceeded"), None, "context_length"),
    ],
)
def test_what_a_model_says_is_returned_without_asking_again(said: Any, text: str | None, finish_reason: str) -> None:
    with ChatServer(lambda model, messages: said) as server:
        reply = ask(server)
        assert (reply.text, reply.finish_reason) == (text, finish_reason)
        assert server.calls == 1


def test_tokens_are_estimated_where_the_endpoint_does_not_tell() -> None:
    with ChatServer(lambda model, messages: Said("x" * 40, usage=False)) as server:
        reply = ask(server, [{"role": "user", "content": "y" * 400}])
    assert (reply.prompt_tokens, reply.completion_tokens) == (101, 11)


@pytest.mark.parametrize(
    "fault",
    [Fault(status) for status in (408, 409, 429, 500, 502, 503, 529)] + [DROP, BAD_JSON, NO_CHOICES, WEB_PAGE],
    ids=str,
)
def test_passing_faults_are_asked_again(fault: Fault) -> None:
    with ChatServer(echo, faults=[fault] * 3) as server:
        assert ask(server).text == "m heard hello"
        assert server.calls == 4


def test_a_time_out_is_asked_again() -> None:
    slow = iter([0.6, 0.0])

    def answer(model: str, messages: Any) -> str:
        time.sleep(next(slow))
        return "done"

    with ChatServer(answer) as server:
        assert ask(server, timeout_seconds=0.3).text == "done"
        assert server.calls == 2


def test_tokens_of_replies_thrown_away_are_counted() -> None:
    with ChatServer(echo, faults=[NO_CHOICES, NO_CHOICES]) as server:
        reply = ask(server)
    assert reply.prompt_tokens == server.prompt_tokens + 14
    assert reply.completion_tokens == server.completion_tokens + 4


def test_a_broken_reply_counts_as_far_as_it_came() -> None:
    with ChatServer(echo, faults=[BAD_JSON]) as server:
        reply = ask(server, [{"role": "user", "content": "y" * 400}])
    assert reply.prompt_tokens == server.prompt_tokens + 101
    assert reply.completion_tokens == server.completion_tokens + len(str(BAD_JSON.body)) // 4


@pytest.mark.parametrize("fault", [Fault(503, "overloaded"), DROP, BAD_JSON, NO_CHOICES, WEB_PAGE], ids=str)
def test_faults_that_do_not_pass_end_in_one_sentence(fault: Fault) -> None:
    with ChatServer(lambda model, messages: fault) as server, pytest.raises(EndpointError) as raised:
        ask(server, max_retries=2)
    assert server.calls == 3
    message = str(raised.value)
    assert server.url in message
    assert "in 3 attempts over 0 s" in message
    assert "api.small_base_url" in message


def test_a_dead_endpoint_is_named_with_the_time_it_took() -> None:
    with ChatServer(echo) as server:
        pass
    with pytest.raises(EndpointError, match="could not be reached in 3 attempts"):
        ask(server, max_retries=2)
    with pytest.raises(EndpointError, match="could not be reached in 3 attempts"):
        check(settings(server))


def test_an_outage_costs_no_call_though_some_began_before_it_and_fail_once_more_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat, "LONGEST_WAIT_SECONDS", 0.05)
    answers, failed_after = Counter[str](), set[str]()

    def answer(model: str, messages: Sequence[dict[str, Any]]) -> str | Fault:
        text = messages[-1]["content"]
        with server.lock:
            answers[text] += 1
            if answers.total() > 20 and max(answers[str(number)] for number in range(40)) <= 8:
                return DROP
            if answers[text] > 1 and text not in failed_after:
                failed_after.add(text)
                return Fault(500)
        return echo(model, messages)

    async def main() -> list[Reply]:
        async with ApiChat(settings(server, concurrency=8)) as endpoint:
            turns = [[Message(role="user", content=str(number))] for number in range(40)]
            return await asyncio.gather(*(endpoint.complete(turn) for turn in turns))

    with ChatServer(answer, latency=0.01) as server:
        replies = asyncio.run(main())
    assert [reply.text for reply in replies] == [f"m heard {number}" for number in range(40)]
    assert len(failed_after) >= 8


def test_a_call_that_was_rate_limited_often_is_not_given_up_at_its_first_failure() -> None:
    """Others are answered all the while, and the ninth attempt would be, too."""
    faults = iter([*[Fault(429, retry_after=0.01)] * 7, Fault(500)])

    async def main() -> Reply:
        async with ApiChat(settings(server, max_retries=6), answered_before=True) as endpoint:
            others = asyncio.create_task(keep_asking(endpoint))
            reply = await endpoint.complete(HELLO)
            others.cancel()
            return reply

    async def keep_asking(endpoint: ApiChat) -> None:
        while True:
            await endpoint.complete([Message(role="user", content="another")])

    with ChatServer(lambda model, messages: next(faults, "OK") if messages == HELLO else "OK") as server:
        assert asyncio.run(main()).text == "OK"


def test_one_call_that_always_fails_is_given_up_alone_where_the_endpoint_answers_others() -> None:
    async def main() -> None:
        async with ApiChat(settings(server, max_retries=2), answered_before=True) as endpoint:
            with pytest.raises(CallFailedError, match=r"no usable answer in 6 attempts \(500: the server"):
                await endpoint.complete(HELLO)

    with ChatServer(lambda model, messages: Fault(500) if messages == HELLO else "OK") as server:
        asyncio.run(main())
        assert [request["messages"] == HELLO for request in server.requests] == [True] * 3 + [False, True] * 3
        assert server.requests[3]["messages"] == chat.CHECK


@pytest.mark.parametrize(
    ("answered_before", "answer", "limit"),
    [
        (True, DROP, "for 0.6 s (labeling.patience_seconds)"),
        (True, Fault(429, "rate limit", retry_after=0.2), "for 0.6 s (labeling.patience_seconds)"),
        (True, "slow", "for 0.6 s (labeling.patience_seconds)"),
        (False, Fault(500), "4 times"),
    ],
    ids=str,
)
def test_why_nothing_happens_is_told_while_an_endpoint_is_waited_for(
    answered_before: bool,
    answer: str | Fault,
    limit: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(chat, "TOLD_AFTER_SECONDS", 0.02)

    def late(model: str, messages: Any) -> str | Fault:
        time.sleep(0.3 if answer == "slow" else 0)
        return answer

    async def main() -> None:
        limits = {"patience_seconds": 0.6, "max_retries": 3, "timeout_seconds": 0.2}
        async with ApiChat(settings(server, **limits), answered_before=answered_before) as endpoint:
            await endpoint.complete(HELLO)

    with ChatServer(late) as server, pytest.raises(EndpointError):
        asyncio.run(main())
    [told] = capsys.readouterr().out.splitlines()
    assert told.startswith(f"{server.url} gives no answer (")
    assert told.endswith(f"It is tried {limit}, then the run stops.")


def test_the_last_attempt_is_made_when_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of 0.4 and 0.8 seconds of their own accord, of which the second is cut."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.4)

    async def main() -> None:
        async with ApiChat(settings(server, patience_seconds=0.7), answered_before=True) as endpoint:
            await endpoint.complete(HELLO)

    with ChatServer(lambda model, messages: DROP) as server, pytest.raises(EndpointError, match="over 1 s"):
        asyncio.run(main())
    assert 0.65 < server.times[-1] - server.times[0] < 1.1


def test_a_connection_that_is_not_taken_costs_nothing_and_is_no_slow_answer() -> None:
    tried: list[tuple[int, int]] = []

    async def admit(lost: tuple[int, int]) -> None:
        tried.append(lost)

    async def main(port: int) -> None:
        busy = ChatSettings(model="m", base_url=f"http://127.0.0.1:{port}/v1", timeout_seconds=0.1, max_retries=2)
        async with ApiChat(busy) as endpoint:
            await endpoint.complete(HELLO, admit=admit)

    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # wait in vain to be accepted; the next one is not even noticed
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(EndpointError, match="could not be reached in 3 attempts"):
            asyncio.run(main(full.getsockname()[1]))
    assert tried == [(0, 0)] * 3


def test_waits_grow_and_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.1)
    faults = [Fault(500), Fault(500), Fault(429, retry_after=0.5), Fault(429, retry_after=0.0)]
    with ChatServer(echo, faults=faults) as server:
        ask(server)
        waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert 0.1 <= waits[0] < waits[1]
    assert waits[1] >= 0.2
    assert waits[2] >= 0.5
    assert waits[3] >= 0.8  # the fourth wait of its own accord


def test_an_endpoint_that_wants_an_hour_is_given_up_at_once() -> None:
    with ChatServer(echo, faults=[Fault(429, retry_after=3600)] * 9) as server:
        with pytest.raises(EndpointError, match="asks to wait 3600 s"):
            ask(server)
        assert server.calls == 1


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (Fault(401, f"Incorrect API key provided: {KEY}."), ["does not accept the key", "Check api.small_api_key"]),
        (Fault(402, "no money"), ["no credit left", "Add credit"]),
        (Fault(403, f"{KEY} may not use m"), ["refuses access", "api.small_api_key"]),
        (Fault(404, "The model `m` does not exist"), ["does not know the model m", "Check api.small_model"]),
        (Fault(404, "page missing"), ["is no endpoint", "api.small_base_url, which usually ends in /v1"]),
        (Fault(405, "no"), ["is no endpoint"]),
        (Fault(400, f"messages are wrong, {KEY[:14]}...{KEY[-4:]}"), ["refuses the request", "messages are wrong"]),
        (Fault(429, "You exceeded your current quota", code="insufficient_quota"), ["no credit left"]),
    ],
    ids=str,
)
def test_what_will_not_pass_stops_at_once_and_never_shows_the_key(fault: Fault, parts: list[str]) -> None:
    with ChatServer(lambda model, messages: fault) as server:
        with pytest.raises(ChatRefusedError) as raised:
            ask(server)
        assert server.calls == (2 if fault.status == 400 else 1)  # is it this prompt, or every one?
    message = str(raised.value)
    assert server.url in message
    assert [part for part in parts if part not in message] == []
    assert KEY[:8] not in message
    assert raised.value.__suppress_context__  # the openai error below it repeats what the server said


@pytest.mark.parametrize(
    "fault", [Fault(500, f"bad {KEY}"), Fault(200, body=f'{{"key": "{KEY}"}}')], ids=["500", "200"]
)
def test_endpoints_that_keep_failing_do_not_show_the_key_either(fault: Fault) -> None:
    with ChatServer(lambda model, messages: fault) as server, pytest.raises(EndpointError) as raised:
        ask(server, max_retries=0)
    assert "(key)" in str(raised.value)
    assert KEY[:8] not in str(raised.value)


@pytest.mark.parametrize("key", ["s3cr3t", "a/b+c=d"])
def test_short_keys_and_escaped_ones_are_hidden_too(key: str) -> None:
    fault = Fault(400, f"bad key={key} at ?key={quote(key, safe='')}")
    with ChatServer(lambda model, messages: fault) as server, pytest.raises(ChatRefusedError) as raised:
        ask(server, api_key=key)
    assert key not in str(raised.value)
    assert quote(key, safe="") not in str(raised.value)


def test_settings_do_not_show_the_key_nor_the_address_its_password() -> None:
    shown = ChatSettings(model="m", base_url="https://me:hidden@host:8000/v1?token=hidden", api_key=KEY)
    assert KEY not in repr(shown)
    assert shown.where == "https://host:8000/v1"


@pytest.mark.parametrize("more", [{"api_key": "two words"}, {"api_key": "ключ"}, {"base_url": "http://host:port/v1"}])
def test_keys_and_addresses_that_cannot_be_one(more: dict[str, str]) -> None:
    with pytest.raises(ChatRefusedError) as raised:
        ApiChat(ChatSettings(**{"model": "m", "size": "large", **more}))
    assert f"api.large_{next(iter(more))}" in str(raised.value)
    assert "two words" not in str(raised.value)


def test_parameters_that_a_model_refuses_are_left_out_from_then_on() -> None:
    refused = ["max_tokens", "temperature", "top_p", "stop"]

    async def main(server: ChatServer) -> None:
        async with ApiChat(settings(server, top_p=0.9, stop=("END",))) as endpoint:
            await asyncio.gather(*(endpoint.complete(HELLO) for _ in range(4)))
            server.reset()
            await endpoint.complete(HELLO)

    with ChatServer(echo, refused_parameters=refused) as server:
        asyncio.run(main(server))
        assert server.requests == [{"model": "m", "messages": HELLO, "max_completion_tokens": 1500}]


@pytest.mark.parametrize(
    ("message", "left_out"),
    [
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "top_p"),
        ("Extra inputs are not permitted: 'stop'", "stop"),
        ("Unsupported value: 'temperature' does not support 0.2 with this model.", "temperature"),
        ("Unsupported: 'temperature', 'stop'", "temperature"),  # one at a time: the other may do
        ("Invalid 'stop': array too long. It must be array of max length 4.", "stop"),
    ],
)
def test_a_refused_parameter_is_recognised_by_the_message_alone(message: str, left_out: str) -> None:
    with ChatServer(echo, faults=[Fault(400, message)]) as server:
        ask(server, top_p=0.9, stop=("END",))
        assert set(server.requests[0]) - set(server.requests[1]) == {left_out}


def ask_more(server: ChatServer, *faults: Fault) -> Reply:
    """With log-probabilities, which were given before the faults came."""

    async def main() -> Reply:
        async with ApiChat(settings(server)) as endpoint:
            await endpoint.complete(HELLO, extra={"logprobs": True})
            server.reset()
            server.faults.extend(faults)
            return await endpoint.complete(HELLO, extra={"logprobs": True})

    return asyncio.run(main())


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (403, 1), (404, 1), (422, 1), (501, 1), (500, 3)])
def test_more_parameters_that_an_endpoint_does_not_take_are_no_refusal(status: int, calls: int) -> None:
    async def main() -> Reply:
        async with ApiChat(settings(server)) as endpoint:
            return await endpoint.complete(HELLO, extra={"logprobs": True})

    with ChatServer(echo, refused_parameters=["logprobs"], refused_status=status) as server:
        reply = asyncio.run(main())
        assert (reply.text, reply.finish_reason, server.calls) == (None, "not_taken", calls)


def test_faults_of_an_endpoint_that_takes_more_parameters_pass() -> None:
    with ChatServer(echo) as server:
        assert ask_more(server, *[Fault(500)] * 4).text == "m heard hello"
        assert [request["logprobs"] for request in server.requests] == [True] * 5


def test_never_more_calls_at_once_than_allowed_and_no_order_is_lost() -> None:
    async def main(server: ChatServer) -> list[Reply]:
        async with ApiChat(settings(server, concurrency=5)) as endpoint:
            turns = [[Message(role="user", content=str(number))] for number in range(40)]
            return await asyncio.gather(*(endpoint.complete(turn) for turn in turns))

    with ChatServer(echo, latency=0.02) as server:
        replies = asyncio.run(main(server))
        assert [reply.text for reply in replies] == [f"m heard {number}" for number in range(40)]
        assert server.peak == 5
        assert server.asked_twice == []


def test_an_endpoint_with_a_lower_limit_is_used_to_the_end() -> None:
    async def main(server: ChatServer) -> list[Reply]:
        async with ApiChat(settings(server, concurrency=16, max_retries=20)) as endpoint:
            return await asyncio.gather(*(endpoint.complete(HELLO) for _ in range(40)))

    with ChatServer(echo, latency=0.01, limit=4) as server:
        assert len(asyncio.run(main(server))) == 40


def test_no_answer_waits_for_its_head_to_be_acknowledged() -> None:
    """Python's server sends head and body apart; Linux acknowledges the first after 40 ms unless it is told to."""
    with ChatServer(echo) as server:

        async def main() -> list[float]:
            async with ApiChat(settings(server)) as endpoint:
                return [(await endpoint.complete(HELLO)).seconds for _ in range(10)]

        assert sorted(asyncio.run(main()))[2] < 0.035


def test_check_passes_without_a_paid_call_where_the_model_is_listed() -> None:
    with ChatServer(echo, models=["m"], key=KEY) as server:
        check(settings(server))
        assert server.calls == 0


def test_check_asks_once_where_there_is_no_list() -> None:
    with ChatServer(echo) as server:
        check(settings(server))
        assert server.calls == 1


def test_check_finds_a_wrong_key_and_an_unknown_model() -> None:
    unknown, wrong = r"does not know the model typo .* Check api\.small_model", "does not accept the key"
    with ChatServer(echo, key=KEY, models=["m"]) as server, pytest.raises(ChatRefusedError, match=unknown):
        check(settings(server, model="typo"))
    with ChatServer(echo, key=KEY) as server, pytest.raises(ChatRefusedError, match=wrong):
        check(settings(server, api_key="sk-another-key-123456"))


def test_coroutines_run_where_a_loop_is_running_already() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def notebook() -> int:
        return run_async(work())

    assert asyncio.run(notebook()) != threading.get_ident()
    assert run_async(work()) != threading.get_ident()


def test_errors_of_a_coroutine_are_raised() -> None:
    async def work() -> None:
        raise EndpointError("gone")

    with pytest.raises(EndpointError, match="gone"):
        run_async(work())


INTERRUPTED = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may start with it ignored

import asyncio
from nbhelpers.chat import run_async

async def work():
    try:
        print("started", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

try:
    run_async(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_cancels_and_cleans_up_first() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "cleaned up\ninterrupted\n"


def test_the_keyword_labeller_writes_rules_and_labels_texts() -> None:
    labeller = keyword_labeller({"goal": "sport", "vote": "politics"}, rules="1. R.", default="other")

    def say(content: str) -> Any:
        return labeller("m", [{"role": "user", "content": content}])

    assert say("Write rules about goal and vote.") == "1. R."
    assert say("<text>\nThe VOTE was close\n</text>\n").endswith("Final label: politics")
    assert say('Rules: goal\nInput Text:\n"""\na vote\n"""\nClasses: ...').endswith("Final label: politics")
    assert say("<text>\nnothing\n</text>").endswith("Final label: other")
