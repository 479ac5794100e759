"""Answer forms: what is asked for, and the probability of a label from its tokens."""

import json
import math
from typing import Any

import pytest

from nbhelpers.answer_forms import AnswerForm, label_probabilities
from nbhelpers.completions import Token

CLASSES = ["sport", "sport news", "politics"]


def token(text: str, **alternatives: float) -> Token:
    """A token with probabilities; underscores in the names stand for spaces."""
    named = {name.replace("_", " "): probability for name, probability in alternatives.items()}
    return Token(text, math.log(named.get(text, 1.0)), {name: math.log(p) for name, p in named.items()})


def test_a_plain_question_adds_nothing() -> None:
    assert AnswerForm().parameters(CLASSES) == {}


def test_the_schema_holds_the_classes_after_a_reason() -> None:
    added: dict[str, Any] = AnswerForm(schema=True, logprobs=True).parameters(["a", 'b "c"'])
    schema = added["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reason", "label"]  # the reason is written before the label
    assert schema["properties"]["label"]["enum"] == ["a", 'b "c"']
    assert (added["logprobs"], added["top_logprobs"]) == (True, 20)
    json.dumps(added)


def test_one_token_a_class() -> None:
    tokens = [token("Final label: "), token("politics", politics=0.7, sport=0.2, music=0.1)]
    found = label_probabilities(tokens, "politics", ["sport", "politics"])
    assert found == pytest.approx({"sport": 0.2 / 0.9, "politics": 0.7 / 0.9})


def test_a_leading_space_and_parts_of_names() -> None:
    tokens = [token("Final label:"), token(" pol", _pol=0.6, _sport=0.4), token("itics", itics=0.99, ite=0.01)]
    found = label_probabilities(tokens, "politics", ["sport", "politics"])
    assert found == pytest.approx({"sport": 0.4 / (0.4 + 0.594), "politics": 0.594 / (0.4 + 0.594)})


def test_a_token_that_begins_two_names_counts_for_both() -> None:
    tokens = [token("politics", politics=0.5, spo=0.5)]
    found = label_probabilities(tokens, "politics", CLASSES)
    assert found == pytest.approx({"sport": 0.25, "sport news": 0.25, "politics": 0.5})


def test_a_name_that_another_one_continues() -> None:
    tokens = [
        token("sport", sport=0.9, politics=0.1),
        Token("\n", math.log(0.6), {"\n": math.log(0.6), " news": math.log(0.4)}),
    ]
    found = label_probabilities(tokens, "sport", CLASSES)
    assert found == pytest.approx({"sport": 0.54, "sport news": 0.36, "politics": 0.1})


def test_the_label_in_json_has_a_quotation_mark_before_and_behind() -> None:
    tokens = [
        token('{"reason": "sport?", "label": '),
        Token('"sport', math.log(0.8), {'"sport': math.log(0.8), '"politics': math.log(0.2)}),
        token('"}'),
    ]
    found = label_probabilities(tokens, "sport", ["sport", "politics"])
    assert found == pytest.approx({"sport": 0.8, "politics": 0.2})


def test_letters_that_are_longer_in_lower_case_move_nothing() -> None:
    reason = token('{"reason": "Großer Spaß, außerdem İ", "label": "')
    tokens = [reason, token("Lob", Lob=0.55, Kritik=0.45), token('"}')]
    assert label_probabilities(tokens, "Lob", ["Lob", "Kritik"]) == pytest.approx({"Lob": 0.55, "Kritik": 0.45})


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ('{"label": "', '", "reason": "it is about '),
        ('{"reason": "not sport, but ', '", "label": "'),
        ("Final label: ", " (Rule 2: what parliaments do is "),
        ("It is no sport, and so politics.\nFinal label: **", "** politics"),
    ],
)
def test_the_mention_that_is_the_label_counts(before: str, behind: str) -> None:
    said, again = token("politics", politics=0.6, sport=0.4), token("politics", politics=1.0, sport=0.0001)
    tokens = [token(before), said, token(behind), again, token('"}')]
    if '"label"' in behind:
        tokens[1], tokens[3] = again, said
    found = label_probabilities(tokens, "politics", ["sport", "politics"])
    assert found == pytest.approx({"sport": 0.4, "politics": 0.6})


def test_the_last_mention_counts() -> None:
    tokens = [
        token("sport", sport=0.5, politics=0.5),
        token(" it is. Final label: "),
        token("sport", sport=0.9, politics=0.1),
    ]
    assert label_probabilities(tokens, "sport", ["sport", "politics"]) == pytest.approx({"sport": 0.9, "politics": 0.1})


@pytest.mark.parametrize(
    "tokens",
    [None, [], [token("Final label: 0")], [token("Final label: "), token("sport")]],
    ids=["none", "empty", "a number", "no alternatives"],
)
def test_without_the_labels_own_tokens_there_is_no_probability(tokens: list[Token] | None) -> None:
    assert label_probabilities(tokens, "sport", ["sport", "politics"]) is None
