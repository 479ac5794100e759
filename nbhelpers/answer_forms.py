"""In what form a label is asked for, and how sure the model was of it, from the log-probabilities of its tokens.

Two things can be added to a question where an endpoint takes them: a JSON schema whose enum holds the classes, and
log-probabilities. Neither changes which label a reply names, and the probability is read from the tokens of the label
alone, never from a number that the model was asked for. Pure: no disk, network or clock.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.completions import Token

TOP_LOGPROBS, FEW_LOGPROBS = 20, 5  # the most that OpenAI gives, and that some others do
_NAMED = re.compile(r'"label"\s*:\s*|final label\W*')  # what the label stands behind


@dataclass(frozen=True)
class AnswerForm:
    """What is added to a question for a label."""

    schema: bool = False
    logprobs: bool = False
    top_logprobs: int = TOP_LOGPROBS

    def parameters(self, classes: Sequence[str]) -> dict[str, Any]:
        """The request's parameters; none for a plain question."""
        added: dict[str, Any] = {}
        if self.schema:
            properties = {"reason": {"type": "string"}, "label": {"type": "string", "enum": list(classes)}}
            schema = {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
            added["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "label", "strict": True, "schema": schema},
            }
        if self.logprobs:
            added |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return added


def label_probabilities(tokens: Sequence[Token] | None, label: str, classes: Sequence[str]) -> dict[str, float] | None:
    """The probability of each class, from the tokens in which a reply names its label.

    A token that begins several class names counts for each of them in equal parts. What the model might have said
    besides the classes is left out, so the probabilities sum to 1.

    Args:
        tokens: all tokens of the reply, in order.
        label: the class that the reply names.
        classes: all class names.
    Returns:
        class -> probability, or None where the tokens do not spell the label out (it was given as a number, or there
        are no alternatives to compare it with).
    """
    if not tokens:
        return None
    said = _lower("".join(token.text for token in tokens))
    named = [match.end() for match in _NAMED.finditer(said)]  # not where the label's reason names it again
    place = said.find(_lower(label), named[-1]) if named else said.rfind(_lower(label))
    if place < 0:
        return None
    mass, branch, start, compared = dict.fromkeys(classes, 0.0), 1.0, 0, False
    longer = any(name != label and name.casefold().startswith(label.casefold()) for name in classes)
    for token in tokens:
        end = start + len(token.text)
        written = label[: max(0, start - place)]
        if end > place and (len(written) < len(label) or (longer and start == place + len(label))):
            compared = compared or len(token.alternatives) > 1
            lead = max(0, place - start)  # a space or a quotation mark before the name
            for text, logprob in token.alternatives.items():
                if text == token.text:
                    continue
                said = written + (text.lstrip(" \t\n\"'*`") if lead or not written else text)
                meant = _begun_by(said, classes)
                for name in meant if said != written else []:
                    mass[name] += branch * math.exp(logprob) / len(meant)
            branch *= math.exp(token.logprob)
        start = end
    mass[label] += branch
    total = sum(mass.values())
    return {name: part / total for name, part in mass.items()} if compared and total > 0 else None


def _lower(text: str) -> str:
    """In lower case, and as long as it was: a place in it is one in the text."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _begun_by(said: str, classes: Sequence[str]) -> list[str]:
    """The classes whose name begins like this, or is this with something behind it, such as a quotation mark."""
    folded = said.casefold()
    begun = [name for name in classes if folded and name.casefold().startswith(folded)]
    whole = [name for name in classes if folded.startswith(name.casefold()) and not folded[len(name) :][:1].isalnum()]
    return begun or sorted(whole, key=len)[-1:]
