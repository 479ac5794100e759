"""Trying the classifier: which words count, what a threshold does, and what is shown while one types."""

import threading
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbhelpers import try_widget as module
from nbhelpers.coverage import at_threshold, coverage_figure, coverage_table
from nbhelpers.pictures import alt_text
from nbhelpers.try_it import judge
from nbhelpers.try_widget import try_widget

TESTED = pd.DataFrame({"probability": [0.95, 0.9, 0.8, 0.6, 0.5], "right": [True, True, False, True, False]})


class Counts:
    """Sport is likelier by 0.2 for each "goal", less likely by 0.1 for each "vote"."""

    def __init__(self, classes: Sequence[str] = ("sport", "<b>other</b>")) -> None:
        self.classes = list(classes)
        self.asked: list[list[str]] = []

    def predict_proba(self, texts: Sequence[str]) -> Any:
        self.asked.append(list(texts))
        sport = np.array([0.5 + 0.2 * text.split().count("goal") - 0.1 * text.split().count("vote") for text in texts])
        rest = np.repeat(((1 - sport) / (len(self.classes) - 1))[:, None], len(self.classes) - 1, axis=1)
        return np.column_stack([sport, rest]).astype(np.float32)


class Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags = "", set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words += data


def parts(widget):
    """The text, the decision, the bars, the words, the slider, what it does, the figure."""
    return widget.children[1:]


def test_a_word_counts_what_leaving_it_out_takes_away() -> None:
    classifier = Counts()
    verdict = judge(classifier, "a goal,\n vote goal")
    assert classifier.asked == [
        ["a goal,\n vote goal", "goal,\n vote goal", "a vote goal", "a goal, goal", "a goal,\n vote"]
    ]
    assert verdict.likeliest == ("sport", pytest.approx(0.6))
    assert [(word.text, round(word.counts, 2)) for word in verdict.words] == [
        ("a", 0.0),
        ("goal,", 0.0),
        ("vote", -0.1),
        ("goal", 0.2),
    ]


def test_of_a_long_text_only_the_first_words_are_left_out() -> None:
    classifier = Counts()
    assert len(judge(classifier, "word " * 500).words) == 60
    assert len(classifier.asked[0]) == 61


def test_coverage_and_accuracy_by_hand() -> None:
    table = coverage_table(TESTED).set_index("threshold")
    assert table.loc[0.0, ["n", "coverage", "accuracy"]].tolist() == [5, 1.0, 0.6]
    assert table.loc[0.8, ["n", "coverage", "accuracy"]].tolist() == [3, 0.6, pytest.approx(2 / 3)]  # 0.8 is decided
    assert table.loc[0.81, ["n", "accuracy"]].tolist() == [2, 1.0]
    assert table.loc[0.81, "low"] == pytest.approx(0.158, abs=0.001)  # 2 of 2: 0.025 ** (1 / 2)
    assert table.loc[0.99, "n"] == 0
    assert np.isnan(table.loc[0.99, "accuracy"])
    said = at_threshold(table.reset_index(), 0.81)
    assert "40% of the test texts are decided (2 of 5), and of these 100.0% have the LLM's label" in said
    assert "all 5 test texts are left undecided" in at_threshold(table.reset_index(), 0.99)
    assert "3 of 5" in alt_text(coverage_figure(table.reset_index()))


def test_nothing_tested_is_no_error() -> None:
    table = coverage_table(TESTED.head(0))
    assert table["n"].sum() == 0
    assert "undecided" in at_threshold(table, 0.5)
    coverage_figure(table, threshold=0.5)


def test_typing_changes_the_probabilities_and_the_words() -> None:
    area, said, bars, counted, slider, told, figure = parts(
        try_widget(Counts(), TESTED, text="goal <script>", wait_seconds=0)
    )
    assert Text(said.value).words == "sport, with 70.0%."
    assert "<b>other</b>30.0%" in Text(bars.value).words.replace(" ", "")
    assert Text(counted.value).words == "goal <script>Speak for sport: goal (+0.20)."
    assert Text(bars.value + counted.value).tags <= {"div", "span"}
    area.value = "goal goal vote"
    assert "Speak for sport: goal (+0.20), goal (+0.20). Speak against it: vote (-0.10)." in counted.value
    before = figure.value
    slider.value = 0.9
    assert Text(said.value).words == "Undecided: sport is likeliest, with 80.0%."
    assert "2 of 5" in told.value
    assert figure.value != before
    area.value = "vote vote"  # 0.3, and no bar jumps
    assert Text(said.value).words == "Undecided: <b>other</b> is likeliest, with 70.0%."
    assert Text(bars.value).words.replace(" ", "") == "sport30.0%<b>other</b>70.0%"
    area.value = "  "
    assert Text(said.value).words == "Type a text."
    assert bars.value == ""


def test_many_classes_are_cut_and_counted() -> None:
    _, _, bars, *_ = parts(try_widget(Counts([f"class {i}" for i in range(20)]), TESTED, text="goal", wait_seconds=0))
    assert Text(bars.value).words.endswith("and 12 less likely classes")


def test_only_what_was_typed_last_is_worked_out() -> None:
    later, done, finished = module._Later(0.05), [], threading.Event()
    for number in range(5):
        later(lambda number=number: (done.append(number), finished.set()))
    assert finished.wait(5)
    assert done == [4]


def test_a_classifier_that_fails_is_told() -> None:
    class Broken(Counts):
        def predict_proba(self, texts: Sequence[str]) -> Any:
            raise RuntimeError("<gone>")

    _, said, *_ = parts(try_widget(Broken(), TESTED, text="goal", wait_seconds=0))
    assert Text(said.value).words == "The classifier could not say (RuntimeError: <gone>)."


def test_after_a_failure_nothing_is_said_of_the_text_before(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Counts()
    area, said, bars, counted, slider, *_ = parts(try_widget(classifier, TESTED, text="goal", wait_seconds=0))
    assert bars.value

    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError("gone")

    monkeypatch.setattr(classifier, "predict_proba", fail)
    area.value = "vote"
    slider.value = 0.3
    assert Text(said.value).words == "The classifier could not say (RuntimeError: gone)."
    assert (bars.value, counted.value) == ("", "")


def test_the_sentence_is_that_of_the_threshold() -> None:
    table = coverage_table(pd.DataFrame({"probability": [0.285, 0.565, 0.9], "right": True}))
    for threshold, decided in ((0.28, 3), (0.29, 2), (0.56, 2), (0.57, 1)):
        assert f"({decided} of 3)" in at_threshold(table, threshold)
