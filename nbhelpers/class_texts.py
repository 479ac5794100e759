"""A text for each class, to compare texts with: its name, and its description where the task's sentence holds one.

A description is what stands between a class's name and the next class's, where the name, in quotes or not, is followed
by a colon, a bracket, an equals sign or a dash: `0. "food" (cooking, recipes), 1. "sport" (matches)`, `spam: adverts`.
A name that is merely mentioned explains nothing. Nothing is guessed: without a description a class is its name.
"""

import re
from collections.abc import Sequence

QUOTE = "[\"'“”‘’`«»]"
# What leads over to the next class: ", or 2." of `... (matches), or 2. "health" (doctors)`.
LEADS_ON = re.compile(r"(?:[\s,;.]+(?:and|or))?(?:[\s,;.(]*\d+\s*[.:)=-]?)?\s*$", re.IGNORECASE)


def describe_classes(classes: Sequence[str], desc: str) -> list[str]:
    """Each class as "name: description", or as its name alone.

    Args:
        classes: the class names.
        desc: the sentence or sentences of `classification.desc`.
    Returns:
        One text a class, in order. Example: ["spam", "ham"], 'Find 0. "spam": adverts, 1. "ham": the rest.' ->
        ["spam: adverts", "ham: the rest"].
    """
    spelt = {name: r"\s+".join(map(re.escape, name.split())) for name in sorted(classes, key=len, reverse=True)}
    names = "|".join(f"({pattern})" for pattern in spelt.values())
    found = re.compile(rf"{QUOTE}?(?<!\w)(?:{names})(?!\w){QUOTE}?(?=\s*[:=(–—]|\s+-\s)", re.IGNORECASE)
    first: dict[str, re.Match[str]] = {}
    for match in found.finditer(desc):
        first.setdefault(list(spelt)[(match.lastindex or 1) - 1], match)
    ends = [*[match.start() for match in first.values()][1:], len(desc)]
    said = {name: _tidy(desc[match.end() : end]) for (name, match), end in zip(first.items(), ends, strict=False)}
    return [f"{name}: {said[name]}" if said.get(name) else name for name in classes]


def _tidy(text: str) -> str:
    text = LEADS_ON.sub("", text).strip(" \n\t,;:.=-–—")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return " ".join(text.split())
