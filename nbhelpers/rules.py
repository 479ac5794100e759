"""A sentence about the task -> classification rules, in a file that a person may edit.

The large LLM writes them, or a person gives them (`classification.rules_file`). Once a person has edited the file it
is never overwritten: delete it to have the rules written anew.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from nbhelpers.chat import ApiChat, run_async
from nbhelpers.completions import Reply
from nbhelpers.config import Config
from nbhelpers.errors import ChatError, ConfigError
from nbhelpers.label_store import LabelStore
from nbhelpers.llms import chat_settings, stored_under
from nbhelpers.local_llm import LocalLLM
from nbhelpers.lock import one_step
from nbhelpers.progress import progress_bar
from nbhelpers.prompt_files import RULES_PROMPT, Message, load_prompt, render
from nbhelpers.run_folder import RunFolder, write_yaml
from nbhelpers.spending import Budget

MAX_TOKENS, TRIES = 4000, 3
LOCAL_MAX_TOKENS, LOCAL_TRIES = 2000, 1  # a processor takes minutes for so many, and would write the same again
BESIDE_MAX_TOKENS = 200  # of what a local model would have written, shown beside a person's rules


@dataclass(frozen=True)
class Rules:
    """The rules that the labels follow.

    `written_by` is "model", "file" (classification.rules_file) or "person" (the file in the run folder was edited);
    `model_rules` is what the large LLM wrote, where it was asked.
    """

    text: str
    written_by: Literal["model", "file", "person"]
    model_rules: str | None
    asked: list[Message]
    notices: list[str]

    def shown(self) -> list[Message]:
        """The rules and, where there are others, what the model wrote, each under who wrote them."""
        both: list[Message] = [{"role": f"rules in use (by the {self.written_by})", "content": self.text}]
        if self.model_rules is not None and self.model_rules != self.text:
            both.append({"role": "what the model wrote", "content": self.model_rules})
        return both


def make_rules(config: Config, run: RunFolder, store: LabelStore) -> Rules:
    """Takes the rules from a person where there are some, else asks the large LLM, and writes their file.

    A local LLM is asked even where a person gave the rules: it costs nothing, and the two can be compared.

    Raises:
        ConfigError: the rules file is missing or empty.
        ChatError: the LLM could not be asked, or wrote nothing.
    """
    asked, notices = rules_prompt(config)
    kept = _read(run) if run.rules.exists() else {}
    if kept and kept.get("written") != _hash(kept.get("rules", "")):
        notices.append(f"The rules were edited by hand and are kept. To have them written anew, delete {run.rules}.")
        return Rules(read_rules(run), "person", kept.get("model_rules"), asked, notices)
    given = _given_rules(config)
    model_rules = None
    if given is None or config.api.large_mode == "local":
        try:
            model_rules = ask_large(config, asked, store, beside=given is not None)
        except ChatError as error:
            if given is None:
                raise
            notices.append(f"The rules of {config.classification.rules_file} are used. {error}")
    text, written_by = (model_rules or "", "model") if given is None else (given, "file")
    write_yaml(
        run.rules,
        {
            "rules": text,
            "written_by": written_by,
            "written": _hash(text),
            "model": config.api.large_model,
            "model_rules": model_rules,
            "asked": [dict(message) for message in asked],
        },
    )
    return Rules(text, "model" if given is None else "file", model_rules, asked, notices)


def read_rules(run: RunFolder) -> str:
    """The rules as they stand in the run folder, edits included.

    Raises:
        RunFolderError: there are none yet, or the file was broken by an edit.
        ConfigError: the file holds no rules.
    """
    text = _read(run).get("rules")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{run.rules} holds no text under rules:. Write some, or delete the file and run 02_rules.")
    return text.strip()


def replace_rules(run: RunFolder, text: str, *, refined: dict[str, Any]) -> bool:
    """Puts the model's refined rules in place of its first ones, and says how they came about; never over an edit."""
    kept = _read(run)
    if kept.get("written") != _hash(kept.get("rules", "")):
        return False
    write_yaml(run.rules, {**kept, "rules": text, "written": _hash(text), "refined": refined})
    return True


def edit_rules(run: RunFolder, text: str) -> None:
    """Puts a person's rules in place of those in the file, as if they had edited it by hand."""
    write_yaml(run.rules, {**_read(run), "rules": text})


def rules_prompt(config: Config) -> tuple[list[Message], list[str]]:
    """The question for the rules as it is sent, and notices about prompt files that were not found."""
    prompt, notices = load_prompt(
        RULES_PROMPT,
        [config.path.prompts, config.path.default_prompts],
        completion_mode=config.system.completion_mode,
    )
    task = config.classification
    return render(prompt, classes=task.classes, desc=task.desc, text=None), notices


def _given_rules(config: Config) -> str | None:
    file = config.classification.rules_file
    if file is None:
        return None
    try:
        text = file.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"classification.rules_file: {file} could not be read. Write the path of a text file."
        ) from None
    if not text:
        raise ConfigError(f"classification.rules_file: {file} is empty. Write the rules into it, or drop the key.")
    return text


def ask_large(config: Config, asked: list[Message], store: LabelStore, *, beside: bool = False) -> str:
    """What the large LLM writes when it is asked for rules, from the store where it was asked before.

    `beside` a person's rules it is only to be looked at: its beginning is enough, and its end is then marked by "…".

    Raises:
        ChatError: it could not be asked, or wrote nothing.
        BudgetError: what is left of the budget does not suffice.
    """
    key = stored_under(config, "large", text="", prompt=asked, sample=int(beside))
    kept = store.get_answers([key]).get(key)
    if kept is not None:
        store.count_cached([key])
        return str(kept.reply)
    with one_step(store.path.parent):
        return _ask_large(config, asked, store, key, beside)


def _ask_large(config: Config, asked: list[Message], store: LabelStore, key: str, beside: bool) -> str:
    api = config.api_of("large")
    max_tokens, tries = MAX_TOKENS, TRIES
    if api.mode == "local":
        max_tokens, tries = BESIDE_MAX_TOKENS if beside else LOCAL_MAX_TOKENS, LOCAL_TRIES
    reason, budget = "", Budget(config, store)
    for _ in range(tries):

        async def admit(lost: tuple[int, int], most: int = max_tokens) -> None:
            await budget.admit(key, "large", asked, most, lost)

        try:
            reply = _complete(config, asked, max_tokens, admit, answered_before=api.model in store.models())
        except ChatError as error:
            budget.abandon(key, "large", error.lost)
            raise
        budget.settle(key, "large", reply.prompt_tokens, reply.completion_tokens)
        # A thought that does not end was cut off before the rules.
        text = (reply.text or "").rpartition("</think>")[2].partition("<think>")[0].strip()
        cut_off = reply.finish_reason == "length"
        if reply.finish_reason == "refused":
            store.record_failure(key=key, kind="rules", size="large", model=api.model, reason=text, usage=reply)
            raise ChatError(text)
        if beside and cut_off and text:
            text, cut_off = f"{text} …", False
        if text and not cut_off:
            store.put_answer(
                key=key, kind="rules", size="large", model=api.model, prompt=asked, reply=text, usage=reply
            )
            return text
        reason = f"cut off after {max_tokens} tokens" if cut_off else "empty reply"
        max_tokens *= 2
        store.record_failure(key=key, kind="rules", size="large", model=api.model, reason=reason, usage=reply)
    raise ChatError(
        f"{api.model} wrote no rules in {tries} {'try' if tries == 1 else 'tries'} ({reason}). Try another "
        "api.large_model, or give classification.rules_file."
    )


def _complete(
    config: Config,
    messages: list[Message],
    max_tokens: int,
    admit: Callable[[tuple[int, int]], Awaitable[None]],
    *,
    answered_before: bool,
) -> Reply:
    api = config.api_of("large")
    if api.mode == "local":
        started = time.perf_counter()
        with progress_bar(max_tokens, desc=f"writing rules ({api.model})", unit="token") as bar:
            text, sent, received, whole = LocalLLM(api.model).generate(
                messages, max_tokens=max_tokens, progress=lambda done: bar.update(done - bar.n)
            )
        return Reply(text, "stop" if whole else "length", sent, received, time.perf_counter() - started)

    async def ask() -> Reply:
        settings = chat_settings(config, "large", max_tokens=max_tokens)
        async with ApiChat(settings, answered_before=answered_before) as chat:
            return await chat.complete(messages, admit=admit)

    return run_async(ask())


def _read(run: RunFolder) -> dict[str, Any]:
    return run.read_yaml(run.rules, made_by="02_rules")


def _hash(text: object) -> str:  # an edit may leave anything
    return hashlib.sha256(str(text).strip().encode()).hexdigest()[:16]
