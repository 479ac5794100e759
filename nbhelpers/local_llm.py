"""A causal language model in this process: answers in words, or scores class names by their log-probability.

A small model that cannot be relied on to write "Final label: sports" still prefers one class name to another. Scoring
reads that preference: the sum of log P(token) over the tokens of each class name, after an assistant turn that begins
"Final label:". The prompts share their beginning (the rules), which runs through the model once; its keys and values
are reused for every text. Small models also have favourite names whatever the text is; `center_scores` removes that.

It downloads through `models.find_model` only, never runs a repository's own code, and does not parse replies.

Source: Holtzman et al. 2021, arXiv:2104.08315 (a label's prior); Zhao et al. 2021, arXiv:2102.09690 (calibration).
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbhelpers.errors import ChatRefusedError, ModelNotFoundError
from nbhelpers.models import fastest_dtype, find_model

ANSWER_START = "Final label:"
BATCH_TOKENS = 512  # tokens of one forward pass, class names included; larger ones were slower on a CPU
CENTER_FROM_ROWS = 8

_LOCK = threading.RLock()  # one pass at a time: passes side by side would share the same cores

Message = Mapping[str, object]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True)
class ClassScores:
    """The scores of one batch of texts.

    Attributes:
        indices: which of the texts these are.
        scores: a row for each, a column for each class: summed log-probabilities, at most 0.
        tokens_cut: for each, how many tokens of the text's end did not fit the model's context.
        prompt_tokens: tokens of these prompts, the shared beginning counted for each, as an API would bill them.
        seconds: time of the forward pass; that of loading the model and of the shared beginning is in none of them.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    tokens_cut: NDArray[np.int64]
    prompt_tokens: int
    seconds: float


def center_scores(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities from class scores, after removing each class's mean over the texts.

    The mean stands for how much the model likes a name in itself. Removing it assumes that the classes are about
    equally frequent among these texts: it helps where they are, and hurts where one class is most of them. With fewer
    than CENTER_FROM_ROWS rows a mean says more about the texts than about the names, and nothing is removed.

    Args:
        scores: a row for each text, a column for each class.
    Returns:
        The same shape; each row sums to 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) >= CENTER_FROM_ROWS:
        values = values - values.mean(axis=0, keepdims=True)
    values = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: NDArray[np.float32] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


class LocalLLM:
    """A causal model by Hugging Face id, folder or .gguf file; loaded at the first use, once a process."""

    def __init__(self, name: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Args: `name` as find_model takes it; `dtype`, by default the one this CPU is fastest in."""
        self.name = str(name)
        self._path = find_model(name)  # a wrong name is an error now, not after the texts have been read
        self._dtype = dtype

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 400,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[str, int, int, bool]:
        """Answer a conversation.

        Args:
            messages: the conversation, which the model continues as the assistant.
            temperature: 0 takes the likeliest token each time.
            stop: strings that end the reply; they are not part of it.
            seed: makes sampling repeatable; None draws anew.
            progress: called with the number of tokens written so far.
        Returns:
            The reply, the prompt's tokens, the reply's tokens, and whether it came to its end before it was cut off
            (by max_tokens, or where the model's context ends).
        Raises:
            ChatRefusedError: the prompt does not fit the model's context.
        """
        with _LOCK, torch.inference_mode():
            model, tokenizer = self._load()
            ids = self._ids(self._render(messages))
            room = self._context() - len(ids)
            if room < 1:
                raise ChatRefusedError(
                    f"The prompt has {len(ids)} tokens and {self.name} takes {self._context()}: "
                    "shorten the rules, or use a model with a longer context."
                )
            longest = min(max_tokens, room)
            options: dict[str, Any] = {"do_sample": temperature > 0}
            if temperature > 0:
                options["temperature"] = temperature
            if stop:
                options |= {"stop_strings": list(stop), "tokenizer": tokenizer}
            if progress is not None:
                options["streamer"] = _Ticker(progress)
            prompt = torch.tensor([ids])
            with torch.random.fork_rng(devices=[], enabled=seed is not None):
                if seed is not None:
                    torch.manual_seed(seed)
                output = model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=longest,
                    pad_token_id=self._pad(),
                    **options,
                )
            answer = output[0, len(ids) :]
            reply = str(tokenizer.decode(answer, skip_special_tokens=True))
            ends = [place for place in (reply.find(text) for text in stop if text) if place >= 0]
            text = reply[: min(ends)] if ends else reply
            return text.strip(), len(ids), len(answer), bool(ends) or len(answer) < longest

    def score_classes(
        self,
        texts: Sequence[str],
        classes: Sequence[str],
        prompt: Callable[[str], Sequence[Message]],
        *,
        answer_start: str = ANSWER_START,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[ClassScores]:
        """Score every class for every text, a batch at a time, so that the caller can store each batch at once.

        A text too long for the model's context loses tokens at its end; the rest of the prompt stays whole.

        Args:
            texts: any number, any lengths; batches come in order of length, not in this order.
            classes: at least one name.
            prompt: the conversation for one text. What comes before the text is computed once for all of them.
            answer_start: how the assistant's turn begins; the class name follows it after a space.
            batch_tokens: upper bound for the tokens of one forward pass (a single text may exceed it).
            progress: called with the number of texts done so far.
        Yields:
            ClassScores, each text in exactly one of them.
        Raises:
            ChatRefusedError: the prompt does not fit the model's context even without its text.
        """
        if not len(texts):
            return
        with _LOCK:
            self._load()
            names = [self._name_ids(answer_start, name) for name in classes]
            room = self._context() - max(map(len, names))
            prompts, cut = self._fit(texts, prompt, answer_start, room)
            # At least one token of each prompt is left for its own pass: its logits give the names' first tokens.
            first, last = min(prompts), max(prompts)
            shared = min(_common_prefix(first, last), min(map(len, prompts)) - 1) if self._can_share() else 0
            prefix = self._run_prefix(first[:shared]) if shared else None
        extra = sum(len(name) - 1 for name in names)
        done = 0
        for indices in _batches([len(ids) - shared for ids in prompts], extra, batch_tokens):
            with _LOCK, torch.inference_mode():
                started = time.perf_counter()
                own = [prompts[i][shared:] for i in indices]
                scores = self._score(own, names, prefix, shared) if self._can_share() else self._score_plain(own, names)
                seconds = time.perf_counter() - started
            done += len(indices)
            if progress is not None:
                progress(done)
            tokens = sum(len(prompts[i]) for i in indices)
            yield ClassScores(np.array(indices, dtype=np.int64), scores, cut[indices], tokens, seconds)

    # Loading and prompts

    def _load(self) -> tuple[Any, Any]:
        with _LOCK:
            return _load_model(self._path, self._dtype or fastest_dtype(), self.name)

    def _context(self) -> int:
        model, tokenizer = self._load()
        config = model.config.get_text_config()
        limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
        return min([int(limit) for limit in limits if limit] or [2048])

    def _pad(self) -> int:
        _, tokenizer = self._load()
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        return int(next(token for token in candidates if token is not None))

    def _ids(self, text: str) -> list[int]:
        _, tokenizer = self._load()
        # A chat template writes its own special tokens; plain text gets the tokenizer's.
        return list(tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template))

    def _render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model reads it, up to where the assistant's turn begins."""
        _, tokenizer = self._load()
        # A text that holds "<|im_end|>" must not end its turn and open another one.
        special = [token for token in tokenizer.all_special_tokens if len(token) > 1]
        safe = [{"role": str(turn["role"]), "content": _defuse(str(turn["content"]), special)} for turn in messages]
        if not tokenizer.chat_template:
            return "\n\n".join(message["content"].strip() for message in safe) + "\n\n"
        try:
            return str(tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template may refuse the system role, or two turns of one role: Gemma, Mistral
            merged: list[dict[str, str]] = []
            for message in safe:
                role = "assistant" if message["role"] == "assistant" else "user"
                if merged and merged[-1]["role"] == role:
                    merged[-1]["content"] += "\n\n" + message["content"]
                else:
                    merged.append({"role": role, "content": message["content"]})
            return str(tokenizer.apply_chat_template(merged, tokenize=False, add_generation_prompt=True))

    def _name_ids(self, answer_start: str, name: str) -> list[int]:
        _, tokenizer = self._load()
        start = list(tokenizer.encode(answer_start, add_special_tokens=False))
        whole = list(tokenizer.encode(f"{answer_start} {name}", add_special_tokens=False))
        if whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
        return list(tokenizer.encode(f" {name}", add_special_tokens=False)) or [self._pad()]

    def _fit(
        self, texts: Sequence[str], prompt: Callable[[str], Sequence[Message]], answer_start: str, room: int
    ) -> tuple[list[list[int]], NDArray[np.int64]]:
        """The token ids of each prompt, and how many of its text's tokens were cut to fit."""
        _, tokenizer = self._load()

        def ids_for(text: str) -> list[int]:
            return self._ids(self._render(prompt(text)) + answer_start)

        prompts, cut = [], np.zeros(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            ids = ids_for(text)
            if len(ids) > room:
                pieces = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                keep = len(pieces)
                while len(ids) > room and keep > 0:  # more than once only where the cut end is tokenised anew
                    keep = max(0, keep - (len(ids) - room))
                    ids = ids_for(text[: pieces[keep][0]])
                cut[number] = len(pieces) - keep
                if len(ids) > room:
                    raise ChatRefusedError(
                        f"The prompt has {len(ids)} tokens without its text, and {self.name} takes {room}: "
                        "shorten the rules, or use a model with a longer context."
                    )
            prompts.append(ids)
        return prompts, cut

    # Scoring

    def _can_share(self) -> bool:
        """Whether the model attends to everything before a token, and takes positions and a mask for it from us.

        Others (sliding windows, recurrent layers, positions of their own) are scored without a shared prefix: slower.
        """
        model, _ = self._load()
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
        taken = inspect.signature(model.forward).parameters
        return set(kinds) == {"full_attention"} and {"position_ids", "past_key_values", "logits_to_keep"} <= set(taken)

    def _run_prefix(self, ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        from transformers import DynamicCache

        model, _ = self._load()
        cache = DynamicCache()
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def _score(
        self,
        prompts: list[list[int]],
        names: list[list[int]],
        prefix: list[tuple[torch.Tensor, torch.Tensor]] | None,
        shared: int,
    ) -> NDArray[np.float32]:
        """One forward pass for a batch: all its prompts in one row, each followed by every class name.

        columns   prompt 1 | its name 1 (without its last token) | its name 2 | ... | prompt 2 | its name 1 | ...

        The mask lets a prompt's tokens see the shared beginning and their own prompt, a name's tokens also their own
        name. Positions continue from the prompt for each name, so that every name is scored as if it alone followed.
        The last tokens are predicted, not read. One row needs no padding, and the beginning's keys only once.
        """
        from transformers import DynamicCache

        model, _ = self._load()
        fed = [token for name in names for token in name[:-1]]
        depths = [depth for name in names for depth in range(len(name) - 1)]
        starts = np.cumsum([0, *(len(name) - 1 for name in names)])
        ids: list[int] = []
        positions: list[int] = []
        kept: list[int] = []  # columns whose next token counts: a prompt's last one, and the names'
        for prompt in prompts:
            kept += range(len(ids) + len(prompt) - 1, len(ids) + len(prompt) + len(fed))
            ids += [*prompt, *fed]
            end = shared + len(prompt)
            positions += [*range(shared, end), *(end + depth for depth in depths)]
        text = torch.tensor([row for row, prompt in enumerate(prompts) for _ in (*prompt, *fed)])
        name_of = [column for column, name in enumerate(names) for _ in name[:-1]]
        part = torch.tensor([part for prompt in prompts for part in (*(-1 for _ in prompt), *name_of)])
        sees = (text[:, None] == text) & ((part == -1) | (part[:, None] == part))
        visible = torch.cat([torch.ones(len(ids), shared, dtype=torch.bool), sees.tril()], dim=1)[None, None]
        mask = torch.zeros(visible.shape, dtype=model.dtype).masked_fill_(~visible, torch.finfo(model.dtype).min)

        cache = DynamicCache()
        for number, (keys, values) in enumerate(prefix or []):
            cache.update(keys, values, number)
        output = model(
            input_ids=torch.tensor([ids]),
            attention_mask=mask,
            position_ids=torch.tensor([positions]),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(kept),
        )
        logits = output.logits[0].unflatten(0, (len(prompts), 1 + len(fed)))
        # Of a prompt's logits the first follow it, and those at 1 + i the i-th fed token.
        places = [
            (column, token, 0 if depth == 0 else int(start) + depth)
            for column, (start, name) in enumerate(zip(starts, names, strict=False))
            for depth, token in enumerate(name)
        ]
        column_of, token_of, place_of = (torch.tensor(list(part)) for part in zip(*places, strict=True))
        scores = torch.zeros(len(prompts), len(names))
        for row, own in enumerate(logits):  # one by one: in float32, all would take gigabytes with a large vocabulary
            logs = torch.log_softmax(own.float(), dim=-1)
            scores[row].index_add_(0, column_of, logs[place_of, token_of])
        return scores.numpy()

    def _score_plain(self, prompts: list[list[int]], names: list[list[int]]) -> NDArray[np.float32]:
        """Each prompt with each name as a text of its own: works for every architecture, and recomputes everything."""
        model, _ = self._load()
        scores = np.zeros((len(prompts), len(names)), dtype=np.float32)
        for row, prompt in enumerate(prompts):
            for column, name in enumerate(names):
                logits = model(input_ids=torch.tensor([prompt + name[:-1]]), use_cache=False).logits[0]
                logs = torch.log_softmax(logits[len(prompt) - 1 :].float(), dim=-1)
                scores[row, column] = float(logs[range(len(name)), name].sum())
        return scores


class _Ticker:
    """Counts tokens as transformers writes them (its streamer interface); the first call is the prompt."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress, self._count = progress, -1

    def put(self, tokens: torch.Tensor) -> None:
        self._count = 0 if self._count < 0 else self._count + tokens.numel()
        if self._count:
            self._progress(self._count)

    def end(self) -> None:
        pass


@functools.lru_cache(maxsize=2)  # the large LLM and the small one; a GGUF file takes ten seconds and more
def _load_model(path: Path, dtype: torch.dtype, name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model: Any
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False}
    try:
        if path.suffix.lower() == ".gguf":
            # Dense weights: packed ones save memory, but compute in float32 only.
            options |= {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(str(path.parent), **options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(str(path), **options)
    except (ValueError, OSError, KeyError, ImportError, RuntimeError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ModelNotFoundError(
            f"{name!r} could not be loaded as a causal language model ({first_line}): choose another one, such as "
            "HuggingFaceTB/SmolLM2-135M-Instruct."
        ) from error
    return model.eval(), tokenizer


def _defuse(text: str, special: Sequence[str]) -> str:
    for token in special:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _common_prefix(first: Sequence[int], last: Sequence[int]) -> int:
    """Of the least and the greatest of some lists, hence of them all."""
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))


def _batches(lengths: Sequence[int], extra: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices by length, longest first (memory shows its worst at once), each batch within the token budget."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and tokens + lengths[index] + extra > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index] + extra
    if batch:
        yield batch
