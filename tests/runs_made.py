"""Run folders as the notebooks leave them, and a classifier that counts words, where training is beside the point.

write_rows(folder, texts_of({"goal": 30, "rain": 30}))   # 60 texts
prepare(config, run, store)                              # 01 to 03
WordFits(blind=[{"goal"}]).install(monkeypatch)          # the first classifier gets "goal" wrong, later ones do not
"""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pytest
from chat_server import keyword_labeller

from nbhelpers import iteration, prediction
from nbhelpers.config import Config
from nbhelpers.errors import ClassifierError
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, write_test_labels
from nbhelpers.rules import make_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.test_set import open_test_set

WORDS = {"goal": "sports", "vote": "politics", "rain": "weather"}
LABELLER = keyword_labeller(WORDS)
SURE, UNSURE = 0.8, 0.4  # probabilities of the likeliest class, where the classifier has seen the word and where not


def texts_of(counts: Mapping[str, int], *, seed: int = 0, words: int = 6) -> list[str]:
    """Texts that begin with a key word and go on with nonsense, so that no two are near-duplicates; mixed."""
    rng = random.Random(seed)
    keys = [key for key, count in counts.items() for _ in range(count)]
    rng.shuffle(keys)
    return [" ".join([key, *("".join(rng.choices("bcdfghklmnprstvz", k=5)) for _ in range(words))]) for key in keys]


def word_of(text: str) -> str:
    """The first word, which decides the class."""
    return re.findall(r"\w+", text.lower())[0]


def write_rows(folder: Path, texts: Sequence[str], *, name: str = "rows.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "number": number}) + "\n" for number, text in enumerate(texts)]
    (folder / name).write_text("".join(lines), "utf-8")


def prepare(config: Config, run: RunFolder, store: LabelStore) -> None:
    """What 01 to 03 do."""
    ingest(config, run)
    rules = make_rules(config, run, store)
    test, _ = open_test_set(config, run)
    size = config.training.test_labeler
    write_test_labels(run, label_chunks(test, size=size, rules=rules.text, config=config, store=store), config=config)


class WordClassifier:
    """Knows the class of the texts' first words; saves and loads itself as a Classifier does."""

    asked: ClassVar[list[str]] = []  # every text that any of them was asked about
    dies_at: ClassVar[str | None] = None  # a text at which the process is killed

    def __init__(self, classes: Sequence[str], known: dict[str, str], default: str, training: dict[str, Any]) -> None:
        self.classes, self.known, self.default, self.training = list(classes), known, default, training

    def predict_proba(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> Any:
        proba = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        for row, text in enumerate(texts):
            if text == WordClassifier.dies_at:
                raise KeyboardInterrupt
            WordClassifier.asked.append(text)
            word = word_of(text)
            share = SURE if word in self.known else UNSURE
            proba[row] = (1 - share) / (len(self.classes) - 1)
            proba[row, self.classes.index(self.known.get(word, self.default))] = share
            if progress is not None:
                progress(row + 1, len(texts))
        return proba

    def save(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        weights = {"classes": self.classes, "known": self.known, "default": self.default}
        (folder / "weights.json").write_text(json.dumps(weights), "utf-8")
        (folder / "training.json").write_text(json.dumps(self.training), "utf-8")

    def rescale(self, *, temperature: float = 1.0, log_prior: Sequence[float] | None = None) -> None:
        """Its probabilities stay as they are."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        try:
            weights = json.loads((folder / "weights.json").read_text("utf-8"))
        except OSError as error:
            raise ClassifierError(f"the classifier in {folder} is damaged ({error}).") from error
        return cls(**weights, training=json.loads((folder / "training.json").read_text("utf-8")))


class WordFits:
    """Takes the place of `iteration.fit`.

    Args:
        blind: of the first, second, ... classifier made: key words that it gets wrong. Those after know them all.
        before: called with the number of the fit before each.
    Attributes:
        made: of each fit, the texts, labels and settings.
    """

    def __init__(
        self, blind: Sequence[set[str]] = (), *, before: Callable[[int], object] = lambda number: None
    ) -> None:
        self.blind, self.before = blind, before
        self.made: list[dict[str, Any]] = []

    def __call__(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        classes: Sequence[str],
        base_model: Path,
        settings: Any,
        targets: Any,
        progress: Callable[[int, int], None],
    ) -> WordClassifier:
        self.before(len(self.made) + 1)
        blind = self.blind[len(self.made)] if len(self.made) < len(self.blind) else set()
        self.made.append({"texts": list(texts), "labels": list(labels), "settings": settings})
        seen: dict[str, Counter[str]] = {}
        for text, label in zip(texts, labels, strict=True):
            seen.setdefault(word_of(text), Counter())[label] += 1
        known = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        for word in blind & known.keys():
            known[word] = next(name for name in classes if name != known[word])
        progress(1, 1)
        training = {"settings": settings.fingerprint(), "fit": len(self.made)}
        return WordClassifier(classes, known, Counter(labels).most_common(1)[0][0], training)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Puts it in place of `fit`, and WordClassifier in place of Classifier, until the test ends."""
        monkeypatch.setattr(iteration, "fit", self)
        monkeypatch.setattr(iteration, "aligned_encoder", lambda pool, *, base_model, **_: base_model)
        monkeypatch.setattr(iteration, "believed_labels", lambda labels, **_: None)  # the words are all it goes by
        monkeypatch.setattr(iteration, "Classifier", WordClassifier)
        monkeypatch.setattr(prediction, "Classifier", WordClassifier)
        monkeypatch.setattr(WordClassifier, "asked", [])
        monkeypatch.setattr(WordClassifier, "dies_at", None)
        return self


def dataset(run: RunFolder, number: int) -> pd.DataFrame:
    """What trained classifier `number`."""
    return pd.DataFrame([json.loads(line) for line in run.dataset(number).read_text("utf-8").splitlines()])
