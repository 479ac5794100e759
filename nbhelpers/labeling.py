"""Chunks and rules -> labels by an LLM, each kept in the label store as soon as it is there.

A reply that names no class is asked again; after that the text has a failed label with its reason, never a guess. An
endpoint through which nothing comes, and one whose first replies name no class at all, stops the run, and what was
answered by then is kept. Where an endpoint tells no
probabilities, a text can be asked about several times: the most frequent label counts, and the share of the answers
that name it is its confidence. A local model labels by scoring the class names; each class's mean score over the batch
is then removed, since small models favour some names whatever the text says.
"""

import asyncio
import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.answer_forms import FEW_LOGPROBS, AnswerForm, label_probabilities
from nbhelpers.chat import ApiChat, ChatSettings, run_async
from nbhelpers.completions import Reply
from nbhelpers.config import Config, Size
from nbhelpers.errors import BudgetError, CallFailedError, ChatError, LabelError, NbhelpersError
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import SAMPLING_TEMPERATURE, TEMPERATURE, chat_settings, samples_of, stored_under
from nbhelpers.local_llm import LocalLLM, center_scores
from nbhelpers.lock import one_step
from nbhelpers.progress import progress_bar
from nbhelpers.prompt_files import LABEL_PROMPT, Message, check_label_prompt, load_prompt, render
from nbhelpers.replies import parse_label
from nbhelpers.run_folder import RunFolder, write_yaml
from nbhelpers.spending import Budget, note_prices

Row = tuple[str, str, str]  # chunk_id, text, key

ASKED_AGAIN = 4  # where 21 % of replies name no class, as with three in ten broken, 0.04 % of the texts fail
MAX_TOKENS = 2000  # of a reply; what a model thinks counts too
MORE_TOKENS, MOST_TOKENS = 4, 32_000  # times as many after a reply that was cut off, up to this
HOPELESS = 5  # texts whose replies all name no class, of a model that has never named one: then no more are asked
FINAL = frozenset({"content_filter", "context_length", "refused"})  # asking again would bring the same
BLOCK = 1000  # rows that are worked on at once
NOT_ASKED = "not asked: cost.budget_usd is spent"
FORMS = (
    AnswerForm(schema=True, logprobs=True),
    AnswerForm(logprobs=True),
    AnswerForm(logprobs=True, top_logprobs=FEW_LOGPROBS),
    AnswerForm(schema=True),
)
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


def label_chunks(
    chunks: pd.DataFrame, *, size: Size, rules: str, config: Config, store: LabelStore, again: bool = True
) -> pd.DataFrame:
    """Labels chunks, asking only for what the store does not hold.

    Args:
        chunks: with chunk_id and text.
        size: "large" or "small": which LLM.
        rules: as in the run folder.
        config: model, endpoint and classes.
        store: gets every answer at once.
        again: whether texts whose label failed before are asked about again.
    Returns:
        A row for each chunk, in order: chunk_id, text, label (class name, missing where it failed), confidence (0 to
        1, missing where the LLM gives none), reason (why it failed, else ""), source (`size`), reply.
        A text that the budget did not suffice for has the reason NOT_ASKED.
    Raises:
        ChatRefusedError, EndpointError: nothing more can be asked; answers so far are kept.
        ChatError: the first replies of a model name no class at all.
    """
    api, prompt = config.api_of(size), label_prompt(config, rules)
    shared = prompt.render()

    def keyed(texts: pd.DataFrame) -> pd.DataFrame:
        return texts.assign(key=[stored_under(config, size, text=text, prompt=shared) for text in texts["text"]])

    table = _by_blocks(chunks[["chunk_id", "text"]].reset_index(drop=True), keyed)
    failed = _ask_missing(table, size, prompt, config, store, again=again)
    if api.mode == "local":
        labels = _best_classes(table, config.classification.classes, store)
    else:
        labels = _by_blocks(table, lambda rows: _read(rows, failed, store))
    labels = labels.assign(source=size)
    if samples_of(config, size) > 1:
        unsure = labels["label"].notna() & labels["confidence"].isna()
        voted = _votes(labels[unsure], size, prompt, config, store)
        labels.loc[voted.index, voted.columns] = voted
    return labels[COLUMNS].astype({"label": object, "confidence": float})


def _by_blocks(table: pd.DataFrame, work: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """`work` on some rows at a time: what it needs beside its result does not grow with the table."""
    starts = range(0, max(1, len(table)), BLOCK)
    return pd.concat([work(table.iloc[start : start + BLOCK]) for start in starts], ignore_index=True)


def _read(rows: pd.DataFrame, failed: dict[str, tuple[str, str]], store: LabelStore) -> pd.DataFrame:
    """chunk_id, text, label, confidence, reason and reply, from the store or, of what failed, from `failed`."""
    answers = store.get_answers(rows["key"])
    found = []
    for key in rows["key"]:
        answer = answers.get(key)
        if answer is not None:
            found.append((answer.label, answer.confidence, "", answer.reply))
        else:
            found.append((None, None, *failed.get(key, (NOT_ASKED, ""))))
    columns = ["label", "confidence", "reason", "reply"]
    return rows[["chunk_id", "text"]].join(pd.DataFrame(found, columns=columns, index=rows.index))


def _best_classes(table: pd.DataFrame, classes: Sequence[str], store: LabelStore) -> pd.DataFrame:
    """The same of a local model, whose scores are centred over all texts."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        answers = store.get_answers(rows["key"])
        return pd.DataFrame([answers[key].scores for key in rows["key"]], columns=range(len(classes)), dtype=np.float32)

    proba = center_scores(_by_blocks(table, read).to_numpy())
    best = [classes[i] for i in proba.argmax(axis=1)]
    return table[["chunk_id", "text"]].assign(label=best, confidence=proba.max(axis=1), reason="", reply=None)


def _ask_missing(
    table: pd.DataFrame,
    size: Size,
    prompt: LabelPrompt,
    config: Config,
    store: LabelStore,
    *,
    again: bool = True,
    sampled: bool = False,
) -> dict[str, tuple[str, str]]:
    """Asks for the answers to chunk_id, text and key that the store does not hold; (reason, reply) of what failed.

    What failed before and is not asked about `again`, or for want of money, failed as it did then. `sampled` answers
    are further ones to a text, asked for at a higher temperature.
    """
    missing = _by_blocks(table, lambda rows: rows[~rows["key"].isin(store.answered(rows["key"]))])
    store.count_cached(set(table["key"]) - set(missing["key"]))
    failed = _failed_before(missing["key"], store)
    missing = missing if again else missing[~missing["key"].isin(failed)]
    if missing.empty:
        return failed
    api = config.api_of(size)
    bar_of = progress_bar(len(missing), desc=f"labelling ({api.model})", unit="further answer" if sampled else "text")
    with one_step(store.path.parent), bar_of as bar:
        if api.mode == "local":
            _score(missing, size, prompt, config, store, bar)
            return failed
        asker = _Asker(size, prompt, config, store, bar, sampled=sampled)
        waiting = missing[["chunk_id", "text", "key"]].itertuples(index=False, name=None)
        with contextlib.suppress(BudgetError):  # what was bought by then is used
            run_async(asker.ask_all(waiting, len(missing)))
        return failed | asker.failed


def _failed_before(keys: "pd.Series[str]", store: LabelStore) -> dict[str, tuple[str, str]]:
    """Of these keys, those under which a call has failed: (reason, reply) of the last one."""
    calls = store.failures()
    calls = calls[calls["key"].isin(keys)]
    return dict(zip(calls["key"], zip(calls["reason"], calls["reply"].fillna(""), strict=True), strict=True))


def _votes(labels: pd.DataFrame, size: Size, prompt: LabelPrompt, config: Config, store: LabelStore) -> pd.DataFrame:
    """Label, confidence and reply of texts whose first answer, in `labels`, came without a probability.

    They are asked about again until there are `labeling.label_samples` answers. The most frequent label counts, and of
    equally frequent ones the one that was named first. Its confidence is its share of all answers, those that failed
    included; it is missing where some could not be asked for.
    """
    n, shared = samples_of(config, size), prompt.render()
    keys = [
        [stored_under(config, size, text=text, prompt=shared, sample=i) for i in range(1, n)] for text in labels["text"]
    ]
    further = labels[["chunk_id", "text"]].assign(key=pd.Series(keys, index=labels.index)).explode("key")
    failed = _ask_missing(further, size, prompt, config, store, sampled=True)
    rows = []
    for first, reply, asked in zip(labels["label"], labels["reply"], keys, strict=True):
        known = store.get_answers(asked)
        said = [(first, reply), *((known[key].label, known[key].reply) for key in asked if key in known)]
        [(label, votes)] = Counter(label for label, _ in said).most_common(1)
        complete = all(key in known or key in failed for key in asked)
        rows.append((label, votes / n if complete else None, next(reply for name, reply in said if name == label)))
    return pd.DataFrame(rows, columns=["label", "confidence", "reply"], index=labels.index)


def unanswered(
    chunks: pd.DataFrame,
    *,
    size: Size,
    rules: str,
    config: Config,
    store: LabelStore,
    but_for: Set[str] = frozenset(),
) -> pd.DataFrame:
    """The chunks that `label_chunks` would have to ask about; arguments as there.

    Answers under the keys in `but_for` are not missed.
    """
    prompt, samples = label_prompt(config, rules).render(), range(samples_of(config, size))

    def complete(text: str) -> bool:
        first, *further = (stored_under(config, size, text=text, prompt=prompt, sample=i) for i in samples)
        answer = store.get_answers([first]).get(first)
        if answer is None:
            return first in but_for
        return answer.confidence is not None or {*further} <= store.answered(further) | but_for

    return chunks[[not complete(text) for text in chunks["text"]]]


def known_at_once(config: Config, size: Size, store: LabelStore) -> int | None:
    """How many calls at once an LLM's endpoint took the last time; None where that is not known."""
    found = store.finding(_at_once(config, size))
    return None if found is None else int(found)


def _at_once(config: Config, size: Size) -> str:
    api = config.api_of(size)
    endpoint = f"{api.model} at {ChatSettings(api.model, api.base_url).where}"
    return f"calls at once, of at most {config.system.concurrency_limit}, to {endpoint}"


def write_test_labels(run: RunFolder, labels: pd.DataFrame, *, config: Config) -> None:
    """Writes how each label of the test set came about.

    Raises:
        ChatError, BudgetError: none of the texts has a label.
        RunFolderError: another run works on the folder.
    """
    size = config.training.test_labeler
    check_labelled(labels, config=config)
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in labels[COLUMNS].to_dict("records")
    ]
    with one_step(run.root):
        write_yaml(run.test_labels, {"labelled_by": size, "model": config.api_of(size).model, "labels": rows})


def check_labelled(labels: pd.DataFrame, *, config: Config) -> None:
    """Raises a ChatError with the commonest reason, or a BudgetError, where none of the texts has a label."""
    if labels["label"].notna().any():
        return
    reason, size = labels["reason"].mode().iloc[0], labels["source"].iloc[0]
    if reason == NOT_ASKED:
        raise BudgetError("cost.budget_usd is spent before the first text got a label. Raise it to go on.")
    raise ChatError(
        f"None of the {len(labels)} texts got a label ({reason}). "
        f"Look at the replies in labels.sqlite, or try another api.{size}_model."
    )


def read_test_labels(run: RunFolder) -> pd.DataFrame:
    """The test set's chunk_id, text, label, confidence, reason, source and reply, as `label_chunks` gave them."""
    rows = run.read_yaml(run.test_labels, made_by="03_test_labels")["labels"]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"label": object, "confidence": float})


class _Asker:
    """Asks one LLM for labels and stores what comes.

    The first texts are asked one at a time, until it is known which form of answer the endpoint takes; then as many at
    once as it takes. `failed` holds (reason, reply) by key.
    """

    def __init__(
        self, size: Size, prompt: LabelPrompt, config: Config, store: LabelStore, bar: Any, *, sampled: bool = False
    ) -> None:
        self.size, self.prompt, self.store, self.bar = size, prompt, store, bar
        self.classes = config.classification.classes
        self.kind, temperature = ("sample", SAMPLING_TEMPERATURE) if sampled else ("label", TEMPERATURE)
        self.settings = chat_settings(config, size, max_tokens=MAX_TOKENS, temperature=temperature)
        self.shared = prompt.render()
        self.budget = Budget(config, store)
        self.failed: dict[str, tuple[str, str]] = {}
        labels = store.usage(kind="label", model=self.settings.model)
        self._hopeful = bool((labels["calls"] > labels["failed"]).any())  # it has named a class before
        self._unread = 0  # texts whose replies named none
        self.form = AnswerForm()
        self._stopped_by: list[NbhelpersError] = []
        self._finding = f"answer form of {self.settings.model} at {self.settings.where}"
        self._at_once = _at_once(config, size)
        self._seeks_form = config.labeling.answer_form == "auto" and not config.system.completion_mode

    async def ask_all(self, rows: Iterator[Row], n: int) -> None:
        """Asks for all rows, `n` of them.

        Raises:
            ChatRefusedError, EndpointError, BudgetError: nothing more can be asked.
        """
        known, before = self.store.finding(self._at_once), self.settings.model in self.store.models()
        at_once = None if known is None else int(known)
        async with ApiChat(self.settings, at_once=at_once, answered_before=before) as chat:
            await self._find_form(chat, rows)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.concurrency, n)):
                    group.create_task(self._work(chat, rows))
            if chat.at_once is not None:
                self.store.note_finding(self._at_once, str(chat.at_once))
        if self._stopped_by:
            raise self._stopped_by[0]  # the first one says it; the others follow from it

    async def _work(self, chat: ApiChat, rows: Iterator[Row]) -> None:
        """Asks row after row; where nothing more can be asked, the calls under way are still waited for."""
        for row in rows:
            try:
                await self._ask(chat, row, self.form)
            except NbhelpersError as error:
                self._stopped_by.append(error)
            if self._stopped_by:
                return

    async def _find_form(self, chat: ApiChat, rows: Iterator[Row]) -> None:
        """Tries the forms on the first rows, whose answers count like all others."""
        known = self.store.finding(self._finding)
        if not self._seeks_form or known is not None:
            self.form = AnswerForm(**json.loads(known)) if known is not None and self._seeks_form else AnswerForm()
            return
        usable = [AnswerForm()]  # what the endpoint takes and answers in
        for form in FORMS:
            row = next(rows, None)
            answered = None if row is None else await self._ask(chat, row, form)
            if row is None or answered is None:
                return  # no label at all: the next time will tell
            reply, taken = answered
            as_json = (reply.text or "").lstrip().startswith("{")
            sure = label_probabilities(reply.tokens, self._label(row), self.classes) is not None
            usable.append(replace(taken, schema=taken.schema and as_json, logprobs=taken.logprobs and sure))
            if usable[-1] == form or (form == FORMS[0] == taken and not as_json):
                break
        # Knowing how sure the model is counts for more than JSON, which the plain form hardly ever falls short of.
        self.form = max(usable, key=lambda form: (form.logprobs, form.schema))
        self.store.note_finding(self._finding, json.dumps(asdict(self.form)))

    def _label(self, row: Row) -> str:
        return str(self.store.get_answers([row[2]])[row[2]].label)

    async def _ask(self, chat: ApiChat, row: Row, form: AnswerForm) -> tuple[Reply, AnswerForm] | None:
        """Asks until there is a label; the reply that named it and the form that was taken, or None."""
        chunk_id, text, key = row
        messages, max_tokens = self.prompt.render(text), MAX_TOKENS
        call: dict[str, Any] = {"key": key, "kind": self.kind, "size": self.size, "chunk_id": chunk_id}
        call["model"] = self.settings.model

        async def admit(lost: tuple[int, int]) -> None:
            await self.budget.admit(key, self.size, messages, max_tokens, lost, form.parameters(self.classes))

        def settle(reply: Reply) -> None:
            self.budget.settle(key, self.size, reply.prompt_tokens, reply.completion_tokens)

        for _ in range(1 + ASKED_AGAIN):
            try:
                extra = form.parameters(self.classes)
                reply = await chat.complete(messages, max_tokens=max_tokens, extra=extra, admit=admit)
                if reply.finish_reason == "not_taken":
                    form = AnswerForm()
                    reply = await chat.complete(messages, max_tokens=max_tokens, admit=admit)
            except CallFailedError as error:
                self.failed[key] = (str(error), "")
                nothing = Reply(None, None, *error.lost, seconds=0.0)
                self.store.record_failure(**call, reason=str(error), usage=nothing)
                settle(nothing)
                break
            except NbhelpersError as error:
                self.budget.abandon(key, self.size, error.lost if isinstance(error, ChatError) else None)
                raise
            try:
                label = parse_label(reply.text, self.classes, text=text, finish_reason=reply.finish_reason)
            except LabelError as error:
                self.failed[key] = (str(error), reply.text or "")
                self.store.record_failure(**call, reason=str(error), usage=reply)
                settle(reply)
                self._unread += reply.finish_reason == "refused"
                if reply.finish_reason in FINAL or (reply.finish_reason == "length" and max_tokens == MOST_TOKENS):
                    break
                if reply.finish_reason == "length":
                    max_tokens = min(max_tokens * MORE_TOKENS, MOST_TOKENS)
                form = replace(form, schema=False)  # some take it, and then answer "{}" or blanks without end
                continue
            sure = label_probabilities(reply.tokens, label, self.classes)
            self.store.put_answer(
                **call,
                prompt=self.shared,
                label=label,
                scores=None if sure is None else [math.log(max(sure[name], 1e-12)) for name in self.classes],
                confidence=None if sure is None else sure[label],
                reply=reply.text,
                usage=reply,
            )
            settle(reply)
            self.failed.pop(key, None)
            self._hopeful = True
            self.bar.update(1)
            return reply, form
        else:  # it was asked to the end
            self._unread += 1
        self.bar.update(1)
        if self._unread >= HOPELESS and not self._hopeful:
            raise ChatError(
                f"No reply of {self.settings.model} names a class: of the first {self._unread} texts none got a label "
                f"({self.failed[key][0]}). Look at the replies in labels.sqlite, or try another api.{self.size}_model."
            )
        return None


def _score(table: pd.DataFrame, size: Size, prompt: LabelPrompt, config: Config, store: LabelStore, bar: Any) -> None:
    """Scores the class names for every row with a local model and stores the raw scores batch by batch."""
    note_prices(config, store)
    model, shared = LocalLLM(config.api_of(size).model), prompt.render()
    for batch in model.score_classes(table["text"].tolist(), config.classification.classes, prompt.render):
        n = len(batch.indices)
        for row, scores in zip(batch.indices, batch.scores, strict=True):
            store.put_answer(
                key=table["key"].iloc[row],
                kind="label",
                size=size,
                model=model.name,
                chunk_id=table["chunk_id"].iloc[row],
                prompt=shared,
                scores=[float(score) for score in scores],
                usage=Reply(None, None, batch.prompt_tokens // n, 0, batch.seconds / n),
            )
        bar.update(n)
