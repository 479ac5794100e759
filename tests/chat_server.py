"""A chat-completions server for tests: real HTTP on a free local port, answers from a function, faults on demand.

with ChatServer(keyword_labeller({"goal": "sport", "vote": "politics"})) as server:
    ...  # ask server.url
assert server.asked_twice == []
"""

import json
import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """Something other than a good answer. `body` is sent as it is; `drop` closes the connection without a word."""

    status: int = 500
    message: str = "the server had an error"
    code: str | None = None
    param: str | None = None
    retry_after: float | str | None = None
    body: str | None = None
    drop: bool = False


DROP = Fault(drop=True)
BAD_JSON = Fault(status=200, body='{"id": "x", "choices": [{"mess')
NO_CHOICES = Fault(status=200, body='{"id": "x", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}')
WEB_PAGE = Fault(status=200, body="<html><body>Welcome</body></html>")


@dataclass(frozen=True)
class Said:
    """An answer with more to it than its text."""

    text: str | None
    finish_reason: str = "stop"
    usage: bool = True
    message: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)


Answer = Callable[[str, list[dict[str, Any]]], "str | Fault | Said | None"]


class ChatServer:
    """Serves /v1/chat/completions, /v1/completions and /v1/models while the `with` block runs.

    Args:
        answer: (model, messages) -> the reply, or a Fault; a completion's prompt comes as one user message.
        latency: seconds that every answer takes.
        limit: calls at once; what is beyond gets 429 with a Retry-After of `retry_after`.
        key: the API key to insist on; a wrong one is repeated in the error, as some servers do.
        models: the model names that it knows and lists; None knows all and has no list.
        faults: sent first, one a call, before `answer` is asked.
        refused_parameters: names that get `refused_status`, as newer models give for some.
    Attributes:
        requests: the parsed body of every call; `calls`: their number; `peak`: most at once.
        answered: last message -> how many good answers (not faults) were given to it.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        latency: float = 0.0,
        limit: int | None = None,
        retry_after: float = 0.05,
        key: str | None = None,
        models: Iterable[str] | None = None,
        faults: Iterable[Fault] = (),
        refused_parameters: Iterable[str] = (),
        refused_status: int = 400,
    ) -> None:
        self.answer, self.latency, self.limit, self.retry_after, self.key = answer, latency, limit, retry_after, key
        self.models = None if models is None else list(models)
        self.faults, self.refused_parameters = deque(faults), set(refused_parameters)
        self.refused_status = refused_status
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forgets the calls so far."""
        with self.lock:
            self.requests: list[dict[str, Any]] = []
            self.paths: list[str] = []
            self.times: list[float] = []
            self.answered: Counter[tuple[str, str]] = Counter()
            self.now = self.peak = self.prompt_tokens = self.completion_tokens = 0

    @property
    def calls(self) -> int:
        return len(self.requests)

    @property
    def asked_twice(self) -> list[tuple[str, str]]:
        """(model, last message) of what was asked again after a good answer to it."""
        return [asked for asked, times in self.answered.items() if times > 1]

    def __enter__(self) -> Self:
        owner = self

        class Handler(_Handler):
            chat = owner

        self.http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def respond(self, path: str, request: dict[str, Any], sent_key: str) -> "Fault | dict[str, Any]":
        """The answer to one call."""
        chat = path.endswith("/chat/completions")
        messages = request["messages"] if chat else [{"role": "user", "content": request["prompt"]}]
        model = request["model"]
        if self.key is not None and sent_key != self.key:
            return Fault(401, f"Incorrect API key provided: {sent_key}.", code="invalid_api_key")
        if self.models is not None and model not in self.models:
            return Fault(404, f"The model `{model}` does not exist.", code="model_not_found")
        for name in sorted(self.refused_parameters & set(request)):
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            return Fault(self.refused_status, message, code="unsupported_parameter", param=name)
        with self.lock:
            fault = self.faults.popleft() if self.faults else None
        said = fault or self.answer(model, messages)
        if isinstance(said, Fault):
            return said
        if not isinstance(said, Said):
            said = Said(said)
        sent = sum(len(str(message.get("content") or "")) for message in messages) // 4 + 1
        received = len(said.text or "") // 4 + 1
        with self.lock:
            self.answered[model, str(messages[-1]["content"])] += 1
            self.prompt_tokens += sent
            self.completion_tokens += received
        message = {"role": "assistant", "content": said.text, **said.message}
        choice = {"index": 0, "finish_reason": said.finish_reason}
        choice |= {"message": message} if chat else {"text": said.text}
        choice |= said.choice
        usage = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}
        return {**body, "usage": usage} if said.usage else body


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: ChatServer

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models") and self.chat.models is not None:
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.chat.models]})
        else:
            self.send(404, {"error": {"message": f"no {self.path} here"}})

    def do_POST(self) -> None:
        chat = self.chat
        request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not self.path.endswith("/completions"):
            return self.send(404, {"error": {"message": f"no {self.path} here"}})
        with chat.lock:
            chat.requests.append(request)
            chat.paths.append(self.path)
            chat.times.append(time.monotonic())
            chat.now += 1
            chat.peak = max(chat.peak, chat.now)
            too_many = chat.limit is not None and chat.now > chat.limit
        try:
            if too_many:
                return self.fault(Fault(429, "rate limit", retry_after=chat.retry_after))
            time.sleep(chat.latency)
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            said = chat.respond(self.path, request, key)
        finally:
            with chat.lock:
                chat.now -= 1
        return self.fault(said) if isinstance(said, Fault) else self.send(200, said)

    def fault(self, fault: Fault) -> None:
        if fault.drop:
            self.close_connection = True
            self.connection.close()
            return
        error = {"message": fault.message, "type": "error", "code": fault.code, "param": fault.param}
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        self.send(fault.status, {"error": error} if fault.body is None else fault.body, headers)

    def send(self, status: int, body: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def shown_text(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text to label in a label prompt (ours, or one in Augmentoolkit's form), None for any other prompt."""
    last = str(messages[-1]["content"])
    for pattern in (r"<text>\n(.*)\n</text>", r'Input Text:\s*"""\n(.*?)\n\s*"""'):
        found = re.findall(pattern, last, re.DOTALL)
        if found:
            return str(found[-1])
    return None


def keyword_labeller(
    classes_by_keyword: Mapping[str, str], *, rules: str = "1. Go by the keywords.", default: str | None = None
) -> Answer:
    """An LLM that labels by the first keyword in a text (`default` where there is none), and can write `rules`."""
    otherwise = next(iter(classes_by_keyword.values())) if default is None else default

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        text = shown_text(messages)
        if text is None:
            return rules
        label = next((name for word, name in classes_by_keyword.items() if word in text.lower()), otherwise)
        return f"A keyword decides.\nFinal label: {label}"

    return answer


def confident(answer: Answer, classes: Sequence[str], probability: float) -> Answer:
    """The same answers; a label comes with log-probabilities: its own is this, and the other classes share the rest."""

    def sure(model: str, messages: list[dict[str, Any]]) -> Fault | Said | str | None:
        reply = answer(model, messages)
        if shown_text(messages) is None or not isinstance(reply, str):
            return reply
        reasons, mark, label = reply.rpartition("Final label: ")
        shares = dict.fromkeys(classes, (1 - probability) / (len(classes) - 1)) | {label: probability}
        tops = [{"token": name, "logprob": math.log(share)} for name, share in shares.items()]
        tokens = [
            {"token": reasons + mark, "logprob": 0.0, "top_logprobs": []},
            {"token": label, "logprob": math.log(probability), "top_logprobs": tops},
        ]
        return Said(reply, choice={"logprobs": {"content": tokens}})

    return sure
