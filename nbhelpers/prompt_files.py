"""Prompts: YAML lists of role and content, with placeholders that are filled in once.

Prompts that people wrote for Augmentoolkit work as they are; what they lack is taken from our own, in the folder
`prompts` beside this module. Filling in is one pass over the prompt, so braces in a text, in rules or in a JSON example
are never taken for placeholders. This module asks no LLM and knows nothing of replies (see replies.py).
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TypedDict

import yaml

from nbhelpers.errors import PromptError

RULES_PROMPT = "create_rules_for_desc"
LABEL_PROMPT = "create_labels_for_chunk"
REFINE_PROMPT = "refine_rules"

ROLES = ("system", "developer", "user", "assistant")
# Every name that is filled in -> the value it stands for; the second and third spellings are Augmentoolkit's.
PLACEHOLDERS = {
    "classes": "classes",
    "class_list": "classes",
    "classes_list": "classes",
    "desc": "desc",
    "classes_desc": "desc",
    "rules": "rules",
    "text": "text",
    "paragraph": "text",
}
_PLACEHOLDER = re.compile(r"\{\{\s*(?P<wide>%s)\s*\}\}|\{(?P<plain>%s)\}" % (("|".join(PLACEHOLDERS),) * 2))
_HEADINGS = {"user": "### Instruction\n", "assistant": "### Response\n"}


class Message(TypedDict):
    """One turn of a conversation with an LLM."""

    role: str
    content: str


def load_prompt(
    name: str, folders: Sequence[Path | None], *, completion_mode: bool = False
) -> tuple[list[Message], list[str]]:
    """Finds and reads a prompt.

    Args:
        name: file name without its ending, such as "create_labels_for_chunk".
        folders: where to look, in this order; None is passed over. Our own prompt is the last resort.
        completion_mode: look for NAME.txt (the whole prompt as one text) before NAME.yaml, not after it.
    Returns:
        The messages, and a notice for each folder that was given in vain.
    Raises:
        PromptError: the file is not a YAML list of messages, or there is no such prompt at all.
    """
    endings = (".txt", ".yaml", ".yml") if completion_mode else (".yaml", ".yml", ".txt")
    vain: list[str] = []
    for folder in folders:
        if folder is None:
            continue
        for ending in endings:
            file = folder / f"{name}{ending}"
            if file.is_file():
                return _parse(_read(file), file), [f"{found}: {file} is used" for found in vain]
        vain.append(f"{folder} has no {name}.yaml" if folder.is_dir() else f"prompt folder {folder} not found")
    own = resources.files("nbhelpers") / "prompts" / f"{name}.yaml"
    if not own.is_file():
        raise PromptError(f"there is no prompt named {name}. Put {name}.yaml in the folder that path.prompts names.")
    notices = [f"{found}: our own {name}.yaml is used" for found in vain]
    return _parse(own.read_text("utf-8"), f"nbhelpers/prompts/{name}.yaml"), notices


def render(
    prompt: Sequence[Message], *, classes: Sequence[str], desc: str, rules: str = "", text: str | None = None
) -> list[Message]:
    """Fills in a prompt's placeholders, written `{name}` or `{{ name }}`.

    Args:
        prompt: messages with placeholders; any other braces in them stay as they are.
        classes: class names, filled in as lines "0. name".
        desc: what to tell apart.
        rules: the classification rules.
        text: the text to label; None leaves its placeholder, which identifies the prompt whatever the text.
    Returns:
        New messages. Example: "Label {text}" with text "{rules}" -> "Label {rules}".
    """
    values: Mapping[str, str | None] = {
        "classes": "\n".join(f"{index}. {name}" for index, name in enumerate(classes)),
        "desc": desc,
        "rules": rules,
        "text": text,
    }

    def fill(match: re.Match[str]) -> str:
        value = values[PLACEHOLDERS[match["wide"] or match["plain"]]]
        return match[0] if value is None else value

    return [{"role": turn["role"], "content": _PLACEHOLDER.sub(fill, turn["content"])} for turn in prompt]


def check_label_prompt(prompt: Sequence[Message], *, name: str = LABEL_PROMPT) -> None:
    """Checks that a prompt shows the text to label, and shows it last.

    Raises:
        PromptError: no `{text}` (or `{paragraph}`) in it, or none in the last message.
    """
    if not prompt or not any(_shows_text(turn) for turn in prompt):
        raise PromptError(
            f"the prompt {name} never shows the text to label. Write {{text}} (or {{paragraph}}) in its last message."
        )
    if not _shows_text(prompt[-1]):
        raise PromptError(
            f"the prompt {name} has the text to label before its last message. Move {{text}} (or {{paragraph}}) to "
            f"the last message, so that everything before it is the same for all texts."
        )


def as_completion(messages: Sequence[Message]) -> str:
    """A conversation as one text, for endpoints that complete a text rather than chat.

    A single message is used as it is. Otherwise turns stand below "### Instruction" and "### Response" headings, and
    the last heading waits for the reply.
    """
    if len(messages) == 1:
        return messages[0]["content"]
    parts = [_HEADINGS.get(turn["role"], "") + turn["content"].strip() for turn in messages]
    if messages and messages[-1]["role"] != "assistant":
        parts.append(_HEADINGS["assistant"])
    return "\n\n".join(parts)


def _shows_text(turn: Message) -> bool:
    names = (match["wide"] or match["plain"] for match in _PLACEHOLDER.finditer(turn["content"]))
    return any(PLACEHOLDERS[name] == "text" for name in names)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"the prompt {file} could not be read ({error}). Save it as UTF-8 text.") from None


def _parse(content: str, file: Path | str) -> list[Message]:
    if str(file).endswith(".txt"):
        if not content.strip():
            raise PromptError(f"the prompt {file} is empty. Write the prompt in it, or remove the file to use ours.")
        return [{"role": "user", "content": content}]
    try:
        turns = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise PromptError(f"the prompt {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(turns, list) or not turns:
        raise PromptError(f"the prompt {file} is not a list of messages. Write '- role: user' and 'content: |' items.")
    return [_checked(turn, number, file) for number, turn in enumerate(turns, start=1)]


def _checked(turn: object, number: int, file: Path | str) -> Message:
    where = f"message {number} of the prompt {file}"
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise PromptError(f"{where} has no role or no content. Write '- role: user' and below it 'content: |'.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise PromptError(f"{where} has the unknown role {role!r}. Use one of {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise PromptError(f"{where} has the content {content!r}, which is no text. Write it below 'content: |'.")
    return {"role": role, "content": content}
