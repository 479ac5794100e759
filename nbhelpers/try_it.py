"""What a classifier says of a text that somebody types, and which of its words count.

Words are left out one at a time, and what that does to the likeliest class is what they count: exact for this
classifier, and short. It is no explanation of language: two words that say the same stand in for each other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from nbhelpers.labeling import read_test_labels
from nbhelpers.run_folder import RunFolder

MOST_WORDS = 60  # of a longer text, only so many are left out


class Classifies(Protocol):
    """What is needed of a classifier."""

    classes: list[str]

    def predict_proba(self, texts: Sequence[str]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        """A row of class probabilities for each text."""
        ...


@dataclass(frozen=True)
class Word:
    """A word, where it stands in the text, and by how much its presence raises the likeliest class's probability."""

    text: str
    start: int
    end: int
    counts: float


@dataclass(frozen=True)
class Verdict:
    """The classes' probabilities, and the words of the text with what they count, in order."""

    probabilities: dict[str, float]
    words: list[Word]

    @property
    def likeliest(self) -> tuple[str, float]:
        """The class, and its probability."""
        return max(self.probabilities.items(), key=lambda pair: pair[1])


def judge(classifier: Classifies, text: str) -> Verdict:
    """The classifier's probabilities for a text, and what each of its first words counts.

    Args:
        classifier: any, such as the final one.
        text: not empty.
    Example: "match today" -> sport 0.9, without "match" sport 0.3: that word counts +0.6.
    """
    places = [match.span() for match in re.finditer(r"\S+", text)][:MOST_WORDS]
    without = [f"{text[:start].rstrip()} {text[end:].lstrip()}".strip() for start, end in places]
    proba = classifier.predict_proba([text, *without])
    best = int(proba[0].argmax())
    words = [
        Word(text[start:end], start, end, float(proba[0, best] - left[best]))
        for (start, end), left in zip(places, proba[1:], strict=True)
    ]
    return Verdict(dict(zip(classifier.classes, map(float, proba[0]), strict=True)), words)


def tested_confidence(run: RunFolder, predictions: pd.DataFrame) -> pd.DataFrame:
    """The test texts that have a label: how sure the classifier is (probability), and whether it agrees (right).

    Args:
        run: with the test labels.
        predictions: of all texts, as `predict_all` gives them.
    """
    labels = read_test_labels(run).dropna(subset=["label"]).set_index("chunk_id")["label"]
    tested = predictions.drop_duplicates("chunk_id")
    tested = tested[tested["chunk_id"].isin(labels.index)]
    right = tested["predicted_label"] == tested["chunk_id"].map(labels)
    return pd.DataFrame({"probability": tested["probability"], "right": right}).reset_index(drop=True)
