"""Chunks and rules -> labels by an LLM, each kept in the label store as soon as it is there.

A reply that names no class is asked again; after that the text has a failed label with its reason, never a guess. An
endpoint through which nothing comes stops the run, and what was answered by then is kept. A local model labels by
scoring the class names; each class's mean score over the batch is then removed, since small models favour some names
whatever the text says.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.chat import ApiChat, run_async
from nbhelpers.config import Config, Size
from nbhelpers.errors import LabelError
from nbhelpers.label_store import Answer, LabelStore, answer_key
from nbhelpers.llms import chat_settings, parameters
from nbhelpers.local_llm import LocalLLM, center_scores
from nbhelpers.progress import progress_bar
from nbhelpers.prompt_files import LABEL_PROMPT, Message, check_label_prompt, load_prompt, render
from nbhelpers.replies import parse_label
from nbhelpers.run_folder import RunFolder, write_yaml

ASKED_AGAIN = 3
MAX_TOKENS = 1000
COLUMNS = ["chunk_id", "text", "label", "confidence", "reason", "source", "reply"]


@dataclass(frozen=True)
class LabelPrompt:
    """The question for a label: a prompt file with the task and the rules to fill in."""

    template: Sequence[Message]
    classes: Sequence[str]
    desc: str
    rules: str
    notices: Sequence[str]

    def render(self, text: str | None = None) -> list[Message]:
        """The messages for one text; without a text its place stays open, which is what all questions share."""
        return render(self.template, classes=self.classes, desc=self.desc, rules=self.rules, text=text)


def label_prompt(config: Config, rules: str) -> LabelPrompt:
    """Loads the person's label prompt or, where there is none, ours.

    Raises:
        PromptError: it is malformed or has no place for the text.
    """
    folders = [config.path.prompts, config.path.default_prompts]
    template, notices = load_prompt(LABEL_PROMPT, folders, completion_mode=config.system.completion_mode)
    check_label_prompt(template)
    return LabelPrompt(template, config.classification.classes, config.classification.desc, rules, notices)


def label_chunks(chunks: pd.DataFrame, *, size: Size, rules: str, config: Config, store: LabelStore) -> pd.DataFrame:
    """Labels chunks, asking only for what the store does not hold.

    Args:
        chunks: with chunk_id and text.
        size: "large" or "small": which LLM.
        rules: as in the run folder.
        config: model, endpoint and classes.
        store: gets every answer at once.
    Returns:
        A row for each chunk, in order: chunk_id, text, label (class name, missing where it failed), confidence (0 to
        1, missing where the LLM gives none), reason (why it failed, else ""), source (`size`), reply.
    Raises:
        ChatRefusedError, EndpointError: nothing more can be asked; answers so far are kept.
    """
    api = config.api_of(size)
    prompt = label_prompt(config, rules)
    shared = prompt.render()
    keys = [
        answer_key(text=text, prompt=shared, model=api.model, mode=api.mode, parameters=parameters(config))
        for text in chunks["text"]
    ]
    table = chunks[["chunk_id", "text"]].assign(key=keys)
    known = store.get_answers(keys)
    store.count_cached(sum(key in known for key in keys))
    missing = table[~table["key"].isin(known)]
    failed: dict[str, tuple[str, str]] = {}
    if len(missing):
        with progress_bar(len(missing), desc=f"labelling ({api.model})", unit="text") as bar:
            if api.mode == "local":
                _score(missing, size, prompt, config, store, bar)
            else:
                failed = run_async(_ask_all(missing, size, prompt, config, store, bar))
    known = store.get_answers(keys)
    labels = pd.DataFrame(
        [_row(known.get(key), failed.get(key)) for key in keys], columns=["label", "confidence", "reason", "reply"]
    )
    if api.mode == "local":
        classes = config.classification.classes
        scores = np.array([known[key].scores for key in keys], dtype=np.float32).reshape(len(keys), len(classes))
        proba = center_scores(scores)
        labels["label"] = [classes[i] for i in proba.argmax(axis=1)]
        labels["confidence"] = proba.max(axis=1)
    labels[["chunk_id", "text", "source"]] = table[["chunk_id", "text"]].assign(source=size).to_numpy()
    return labels[COLUMNS].astype({"label": object})


def write_test_labels(run: RunFolder, labels: pd.DataFrame, *, config: Config) -> None:
    """Writes how each label of the test set came about."""
    size = config.training.test_labeler
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in labels[COLUMNS].to_dict("records")
    ]
    write_yaml(run.test_labels, {"labelled_by": size, "model": config.api_of(size).model, "labels": rows})


def read_test_labels(run: RunFolder) -> pd.DataFrame:
    """The test set's chunk_id, text, label, confidence, reason, source and reply, as `label_chunks` gave them."""
    rows = run.read_yaml(run.test_labels, made_by="03_test_labels")["labels"]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"label": object, "confidence": float})


def _row(answer: Answer | None, failure: tuple[str, str] | None) -> tuple[Any, ...]:
    if answer is not None:
        return answer.label, answer.confidence, "", answer.reply
    reason, reply = failure or ("not asked", "")
    return None, None, reason, reply


async def _ask_all(
    table: pd.DataFrame, size: Size, prompt: LabelPrompt, config: Config, store: LabelStore, bar: Any
) -> dict[str, tuple[str, str]]:
    """Asks for every row with as many workers as calls are allowed at once; returns the failures by key."""
    failed: dict[str, tuple[str, str]] = {}
    rows: Iterator[tuple[str, str, str]] = table[["chunk_id", "text", "key"]].itertuples(index=False, name=None)
    settings = chat_settings(config, size, max_tokens=MAX_TOKENS)

    async def work(chat: ApiChat) -> None:
        for chunk_id, text, key in rows:
            messages = prompt.render(text)
            call: dict[str, Any] = {"key": key, "kind": "label", "size": size, "chunk_id": chunk_id}
            call["model"] = settings.model
            for _ in range(1 + ASKED_AGAIN):
                reply = await chat.complete(messages)
                try:
                    label = parse_label(
                        reply.text, config.classification.classes, text=text, finish_reason=reply.finish_reason
                    )
                except LabelError as error:
                    failed[key] = (str(error), reply.text or "")
                    store.record_failure(**call, reason=str(error), usage=reply)
                    continue
                store.put_answer(**call, prompt=prompt.render(), label=label, reply=reply.text, usage=reply)
                failed.pop(key, None)
                break
            bar.update(1)

    try:
        async with ApiChat(settings) as chat, asyncio.TaskGroup() as group:
            for _ in range(min(settings.concurrency, len(table))):
                group.create_task(work(chat))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first one says it; the others follow from it
    return failed


def _score(table: pd.DataFrame, size: Size, prompt: LabelPrompt, config: Config, store: LabelStore, bar: Any) -> None:
    """Scores the class names for every row with a local model and stores the raw scores batch by batch."""
    model = LocalLLM(config.api_of(size).model)
    for batch in model.score_classes(table["text"].tolist(), config.classification.classes, prompt.render):
        for row, scores in zip(batch.indices, batch.scores, strict=True):
            store.put_answer(
                key=table["key"].iloc[row],
                kind="label",
                size=size,
                model=model.name,
                chunk_id=table["chunk_id"].iloc[row],
                prompt=prompt.render(),
                scores=[float(score) for score in scores],
            )
        bar.update(len(batch.indices))
