"""The report's words and figures, as a reader sees them."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from nbhelpers.page_words import (
    after,
    against_truth,
    claimed,
    claims,
    count,
    duration,
    meaning,
    outcome,
    percent,
    quotable,
    shortened,
    sources,
    what_more_brings,
)

LAST = {
    "test_size": 120,
    "failed_test_labels": 0,
    "accuracy": 0.9,
    "accuracy_low": 0.832,
    "accuracy_high": 0.947,
    "majority_class": "ham",
    "majority_baseline": 0.35,
}
REPORT = {
    "status": "target_reached",
    "stop_rule": "lower_bound",
    "target": 0.8,
    "iterations": [LAST],
    "claim": {"lower_bound": 0.816, "confidence": 0.95, "looks": 2},
    "added_since_draw": 0,
    "truth": None,
}
AUDIT = {"accuracy": 0.88, "low": 0.8, "high": 0.93, "n": 120, "m": 30}
TRUTH = {
    "LLM against the truth": {"share": 0.91, "low": 0.85, "high": 0.95, "texts": 100},
    "classifier against the truth": {"share": 0.97, "low": 0.92, "high": 0.99, "texts": 100},
}


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        *((write, None, "unknown") for write in (count, duration, after)),
        (count, 12345, "12,345"),
        (duration, 0, "0 s"),
        (duration, 0.0042, "4.2 ms"),
        (duration, 0.42, "0.4 s"),
        (duration, 95, "95 s"),
        (duration, 600, "10 min"),
        (duration, 9000, "2.5 h"),
        (after, 1500, "after 1,500 texts"),
        (after, math.inf, "never"),
        (percent, 0.9, "90.0 %"),
        (percent, None, "–"),
        (percent, math.nan, "–"),
    ],
)
def test_figures_are_written_as_people_do_and_unknown_is_never_0(
    write: Callable[[Any], str], value: float | None, written: str
) -> None:
    assert plain(write(value)) == written


def test_a_count_takes_its_noun_along() -> None:
    assert [count(n, "file") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]


def test_who_gave_the_labels() -> None:
    assert sources({"small": 20, "human": 1}) == "20 by the small LLM, 1 by people"


def test_what_more_labels_bring_comes_with_margin_and_price() -> None:
    outlook = {"labels": 80, "gain": 0.046, "margin": 0.061, "dollars": 1.5}
    assert what_more_brings(outlook) == (
        "Another 80 labels are likely to change the accuracy by +4.6 points on average, give or take 6.1, for $1.50. "
        "A single training may lie some points above or below."
    )
    assert "by +0.0 points on average, give" in str(what_more_brings({**outlook, "gain": -0.0004}))
    assert "at an unknown price" in str(what_more_brings({**outlook, "dollars": None}))
    assert what_more_brings(None) is None


def test_a_long_text_is_cut_at_a_space() -> None:
    assert shortened("one two three", 13) == "one two three"
    assert shortened("one two three", 9) == "one two …"
    assert shortened("x" * 100, 50) == "x" * 50 + " …"


def test_the_outcome_names_target_and_rule() -> None:
    assert plain(outcome(REPORT)) == "The target was reached. Target: 80.0 % (the lower bound must reach it)."
    missed = plain(outcome({**REPORT, "status": "budget", "stop_rule": "accuracy"}))
    assert "was not reached" in missed
    assert "without a margin for chance" in missed
    assert "with a new status" in outcome({**REPORT, "status": "a new status"})


def test_claims_hold_agreement_bound_and_baseline() -> None:
    rows = claims(REPORT, {}, "the large LLM")
    assert [(row["value"], row["low"], row["high"], row["texts"]) for row in rows] == [
        (0.9, 0.832, 0.947, 120),
        (0.816, None, None, 120),
        (0.35, None, None, 120),
    ]
    assert rows[0]["what"] == "Same label as the large LLM"
    assert "95 % confidence after 2 looks" in rows[1]["what"]
    assert "“ham”" in rows[2]["what"]


def test_a_bound_is_not_rounded_up_nor_nearly_all_to_all() -> None:
    assert quotable(0.89996) == 0.899
    assert [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (1999 / 2000, 1.0, 0.0004)] == [
        "> 99.9 %",
        "100.0 %",
        "< 0.1 %",
    ]


def test_claims_against_people_stand_apart() -> None:
    rows = claims({**REPORT, "truth": AUDIT}, TRUTH, "the large LLM")[3:]
    assert [(row["value"], row["texts"]) for row in rows] == [(0.88, 120), (0.91, 100), (0.97, 100)]
    assert "30 of the texts checked by hand" in rows[0]["what"]


def test_a_random_audit_outranks_labels_from_a_file() -> None:
    assert against_truth(REPORT, {}) is None
    assert against_truth(REPORT, TRUTH) == {"value": 0.97, "low": 0.92, "high": 0.99, "texts": 100}
    assert against_truth({**REPORT, "truth": AUDIT}, TRUTH) == {"value": 0.88, "low": 0.8, "high": 0.93, "texts": 120}


def test_the_meaning_says_what_the_number_is_not() -> None:
    said = " ".join(meaning(REPORT, {}, "the large LLM"))
    assert "about 90 the label that the large LLM would give" in said
    assert "in the long run, anything from 83 to 95" in said
    assert "Nobody has checked" in said
    assert "so it has learned something" in said
    known = plain(" ".join(meaning(REPORT, TRUTH, "the large LLM")))
    assert "Nobody has checked" not in known
    assert "97.0 % of 100 texts are right (92.0 % to 99.0 %)" in known


def test_a_classifier_no_better_than_the_baseline_is_called_so() -> None:
    poor = {**REPORT, "iterations": [{**LAST, "accuracy_low": 0.3}]}
    assert "may be worth no more than that" in " ".join(meaning(poor, {}, "the large LLM"))


@pytest.mark.parametrize(("looks", "words"), [(1, "one look"), (3, "3 looks")])
def test_a_claim_is_one_sentence_and_its_bound_not_rounded_up(looks: int, words: str) -> None:
    report = {**REPORT, "claim": {"lower_bound": 0.8179, "confidence": 0.95, "looks": looks}}
    said = plain(claimed(report))
    assert said.startswith("At least 81.7 % of all distinct texts get the label that the LLM would give")
    assert said.endswith(f"with 95 % confidence after {words} at the test set.")


def test_a_claim_leaves_out_texts_that_the_llm_cannot_label() -> None:
    report = {**REPORT, "iterations": [{**LAST, "failed_test_labels": 3}]}
    said = plain(claimed(report))
    assert said.startswith("At least 81.6 % of all distinct texts that the LLM can label get its label")


def test_a_claim_leaves_out_texts_that_came_after_the_test_set_was_drawn() -> None:
    said = plain(claimed({**REPORT, "added_since_draw": 400}))
    assert said.startswith("At least 81.6 % of all distinct texts there were when the test set was drawn get the label")


def test_without_a_look_nothing_is_claimed() -> None:
    assert claimed({"claim": None}).startswith("Nothing is claimed")
