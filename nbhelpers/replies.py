"""From an LLM's reply to a class: strictly, or not at all.

A label is read where the reply states one: on the last line that starts with "Final label", in a JSON object, or in a
reply that is nothing but a class. It is a class's name, its number in the list, or both where they agree; case and
decoration around it do not matter. There is no search for class names inside sentences: what is not exactly one class
is a LabelError with a short reason, so that it can be asked again. Pure: no disk, network or clock.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence

from nbhelpers.errors import LabelError

MAX_QUOTE = 80

_SPACES = " \t\r\n\u3000"
_QUOTES = "\"'`“”„‟‘’‚‛«»‹›「」『』"
_MARKS = "*_~"
# What may stand around a name. No minus sign and no leading dot: "-1" and ".5" are not the class with number 1 or 5.
_LEFT = frozenset(_SPACES + _QUOTES + _MARKS + "([{<#")
_RIGHT = frozenset(_SPACES + _QUOTES + _MARKS + ")]}>" + ".,;:!。")

_THINKING = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THINKING_END = re.compile(r"\A.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_THINKING_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_END_TOKENS = re.compile(r"(?:\s|<\|[a-z_]{1,24}\|>|</s>)+\Z")
_FENCE = re.compile(r"`{3,}\w*")
# A list number, heading, emphasis or quotation mark may precede "Final label"; ">" may not, as it marks a quoted text.
_LABEL_LINE = re.compile(
    r"(?:\d{1,2}[.)]\s+)?[\s#*_~`\"'“”\-•]*final\s+label[*_~`\"'“”]*(?:\s*:(?P<value>.*)|\s*)\Z", re.IGNORECASE
)
_NUMBER = re.compile(r"[0-9]{1,6}")
_NUMBER_FIRST = re.compile(r"([0-9]{1,6})(.+)")
_NUMBER_LAST = re.compile(r"(.*[^0-9])([0-9]{1,6})")
_BETWEEN = frozenset(_SPACES + _MARKS + _QUOTES + ".,:;()[]{}#-–—")  # what may stand between a number and a name
_APART = frozenset(_SPACES + ":()[]{}#")  # what keeps a number from being a part of a name: not "covid-19", "1.5 stars"
_REFUSAL = re.compile(
    r"(?:i['’]?m|i am)(?: \w+)? sorry|sorry\b|i (?:can['’]?t|cannot|can not|won['’]?t|am unable|am not able)\b"
    r"|i['’]m (?:unable|not able)\b|as an ai\b|i must decline",
    re.IGNORECASE,
)


def parse_label(reply: str | None, classes: Sequence[str], *, text: str = "", finish_reason: str | None = None) -> str:
    """The class that a reply names.

    Args:
        reply: what the LLM wrote; None where it wrote nothing.
        classes: class names; their numbers count from 0, as in the prompt.
        text: the text that was labelled. If it holds "Final label" itself, the reply's own label must be its end.
        finish_reason: the endpoint's word (chat.Reply); "length" means that the reply is cut.
    Returns:
        One of `classes`. Example: "It sells a thing.\\n**Final label:** 1. Spam." with classes "ham", "spam" -> "spam".
    Raises:
        LabelError: the reply names no class, or more than one; the message is a short reason.
    """
    if finish_reason == "length":
        raise LabelError("cut off by max_tokens")
    if finish_reason == "content_filter":
        raise LabelError("refused by the endpoint's content filter")
    if finish_reason == "context_length":
        raise LabelError("the prompt with this text is too long for the model")
    if finish_reason == "refused":
        raise LabelError("the endpoint refuses the prompt with this text")
    if reply is None or not reply.strip():
        raise LabelError("empty reply")
    names = _Names(classes)
    answer, unfinished_thought = _without_thinking(_END_TOKENS.sub("", unicodedata.normalize("NFKC", reply)))
    if not answer:
        raise LabelError("no answer after the reasoning")
    lines = [line.strip() for line in answer.split("\n")]
    lines = [line for line in lines if line and not _FENCE.fullmatch(line)]
    if not unfinished_thought:
        values = _json_values("\n".join(lines))
        if values is not None:
            return _from_json(values, names, answer)
        if len(lines) == 1:
            label = names.find(lines[0])
            if label is not None:
                return label
    return _from_label_line(lines, names, answer, must_be_last=unfinished_thought or _holds_label_line(text))


def _from_label_line(lines: Sequence[str], names: "_Names", answer: str, *, must_be_last: bool) -> str:
    for index in range(len(lines) - 1, -1, -1):
        match = _LABEL_LINE.match(lines[index])
        if match is None:
            continue
        value, last = match["value"] or "", index
        only_decoration = set(_fold(value)) <= _LEFT | _RIGHT and names.find_name(value) is None
        if only_decoration and index + 1 < len(lines):
            value, last = lines[index + 1], index + 1
        if must_be_last and last != len(lines) - 1:
            raise LabelError(f"the reply does not end with its label: {_quote(lines[-1])}")
        label = names.find(value)
        if label is None:
            raise LabelError(f"{_quote(value)} is not one of the classes" if value.strip() else "the label is empty")
        return label
    if _REFUSAL.match(answer):
        raise LabelError(f"refused: {_quote(answer)}")
    raise LabelError(f"no final label in {_quote(answer)}")


def _from_json(values: Sequence[object], names: "_Names", answer: str) -> str:
    alone = len(values) == 1  # a number beside other properties may be a score: only names count there
    stated = (_as_text(value) for value in values)
    found = {names.find(value) if alone else names.find_name(value) for value in stated if value is not None}
    labels = [label for label in found if label is not None]
    if len(labels) > 1:
        raise LabelError(f"more than one class in {_quote(answer)}")
    if not labels:
        raise LabelError(f"{_quote(answer)} names none of the classes")
    return labels[0]


class _Names:
    """The classes, compared without regard to case and to Unicode's several ways of writing one character."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.by_fold: dict[str, list[int]] = {}
        positions = set(range(len(self.classes)))
        for index, name in enumerate(self.classes):
            self.by_fold.setdefault(_fold(name), []).append(index)
        # Where classes are numbers, or hold one that is another class's position (1 star, 2 stars), a number that is no
        # name may not mean a position.
        self.numbers_are_names = any(
            _NUMBER.fullmatch(name) or {int(number) for number in _NUMBER.findall(name)} & (positions - {*places})
            for name, places in self.by_fold.items()
        )

    def find(self, value: str) -> str | None:
        """The class that `value` states by name, by number, or by both; None if it does not, or if they disagree."""
        label = self.find_name(value)
        if label is not None:
            return label
        found: set[int] = set()
        for core in _cores(_fold(value)):
            if _NUMBER.fullmatch(core):
                if not self.numbers_are_names and int(core) < len(self.classes):
                    found.add(int(core))
            elif match := _NUMBER_FIRST.fullmatch(core):
                found |= self._agreed(int(match[1]), match[2])
            if match := _NUMBER_LAST.fullmatch(core):
                found |= self._agreed(int(match[2]), match[1], number_last=True)
        return self.classes[found.pop()] if len(found) == 1 else None

    def find_name(self, value: str) -> str | None:
        """The class whose name is `value`, or is left of it when as little as possible is taken off its ends."""
        folded, size = _fold(value), -1
        found: set[int] = set()
        for core in _cores(folded):
            if len(core) < size:
                break
            for index in self.by_fold.get(core, []):
                found.add(index)
                size = len(core)
        if len(found) > 1:  # two classes that differ in spaces only: the one that is written just so
            found = {index for index in found if self.classes[index] == value.strip()}
        return self.classes[found.pop()] if len(found) == 1 else None

    def _agreed(self, position: int, rest: str, *, number_last: bool = False) -> set[int]:
        """`position`, if `rest` is something that separates and the name of the class at that position."""
        if position >= len(self.classes):
            return set()
        end = reversed(rest) if number_last else iter(rest)
        width = next((i for i, character in enumerate(end) if character not in _BETWEEN), len(rest))
        for cut in range(1, min(width, 16) + 1):
            between, name = (rest[-cut:], rest[:-cut]) if number_last else (rest[:cut], rest[cut:])
            if (number_last or name[:1].isdigit()) and not _APART & set(between):
                continue
            if self.find_name(name) == self.classes[position]:
                return {position}
        return set()


def _cores(value: str) -> Iterator[str]:
    """`value` without decoration at its ends, the longest first: '"a".' -> '"a".', 'a".', '"a"', ... 'a'."""
    left = next((i for i, character in enumerate(value) if character not in _LEFT), len(value))
    right = next((i for i, character in enumerate(reversed(value)) if character not in _RIGHT), len(value))
    left, right = min(left, 16), min(right, 16)
    cuts = ((a, b) for a in range(left + 1) for b in range(right + 1) if a + b < len(value))
    for start, end in sorted(cuts, key=sum):
        yield value[start : len(value) - end]


def _fold(value: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    return " ".join(folded.split())


def _without_thinking(answer: str) -> tuple[str, bool]:
    """The reply without its <think> blocks, and whether such a block was left open (then all of it is kept)."""
    answer = _THINKING.sub("", answer)
    answer = _THINKING_END.sub("", answer)
    unfinished = _THINKING_START.search(answer) is not None
    return _THINKING_START.sub("", answer).strip(), unfinished


def _holds_label_line(text: str) -> bool:
    plain = re.sub(r"[*_~`#]", "", unicodedata.normalize("NFKC", text)).casefold()
    return re.search(r"final\s+label", plain) is not None


def _json_values(answer: str) -> list[object] | None:
    """The values of a JSON object that may be its label, None if the answer is no object."""
    if not answer.startswith("{"):
        return None
    try:
        pairs = json.loads(answer, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, _Pairs):
        return None
    if sorted(name for name, _ in pairs) == ["label", "reason"]:  # as asked for; a reason may well be a class's name
        return [value for name, value in pairs if name == "label"]
    return [value for _, value in pairs]


class _Pairs(list[tuple[str, object]]):
    """The properties of an object, which may hold one twice."""


def _as_text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int) else None


def _quote(value: str) -> str:
    flat = " ".join(value.split())
    return f"'{flat}'" if len(flat) <= MAX_QUOTE else f"'{flat[: MAX_QUOTE - 1]}…'"
