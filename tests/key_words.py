"""Texts whose class is told by a key word, and what a tiny encoder needs to learn them."""

import random
from dataclasses import replace

from tiny_models import SOME_WORDS

from nbhelpers.training import TrainingSettings

ODD_CLASSES = ["0", 'say "né", twice', "日本, 語"]
WORDS = {"0": "goal match team", 'say "né", twice': "market bank share", "日本, 語": "rain sun wind"}
# Tiny random encoders need high rates; then few steps are enough.
FAST = TrainingSettings(min_steps=100, learning_rate=5e-3, head_learning_rate=5e-3)
LONG = "goal " * 700 + "rain " * 20


def keyword_texts(n, *, seed=0):
    rng = random.Random(seed)
    labels = [rng.choice(ODD_CLASSES) for _ in range(n)]
    texts = [
        " ".join([*rng.sample(SOME_WORDS, rng.randint(1, 8)), rng.choice(WORDS[label].split())]) for label in labels
    ]
    return texts, labels


VOCABULARY = [" ".join(WORDS.values())]
TEXTS, LABELS = keyword_texts(60)


def replaced(**changes):
    return replace(FAST, **changes)


def log_to(calls):
    return lambda done, total: calls.append((done, total))


def names(classifier, texts):
    return [classifier.classes[i] for i in classifier.predict_proba(texts).argmax(axis=1)]
