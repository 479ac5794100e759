"""iteration: what a classifier is trained on, and how its probabilities are brought in line, up to the saved folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from key_words import FAST

from nbhelpers import iteration
from nbhelpers.calibration import TEMPERATURE
from nbhelpers.class_shares import estimate_shares, log_correction
from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.iteration import train
from nbhelpers.run_folder import RunFolder, write_json

MakeConfig = Callable[..., Config]
CLASSES = ["sports", "weather"]
WORDS = {"sports": ["goal", "match", "team"], "weather": ["rain", "snow", "sun"]}


@pytest.fixture
def config(make_config: MakeConfig, tiny_base_model: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    settings = partial(type(FAST), min_steps=30, learning_rate=5e-3, head_learning_rate=5e-3)
    monkeypatch.setattr(iteration, "TrainingSettings", settings)
    return make_config(classification={"classes": CLASSES}, training={"model_path": str(tiny_base_model)})


def labelled(n: int = 40, *, wrong: int = 0) -> pd.DataFrame:
    """Texts of key words in turn; every fifth validates, and of these the first `wrong` have the other label."""
    rows = []
    for i in range(n):
        name = CLASSES[i % 2]
        rows.append({"text": f"{WORDS[name][i % 3]} {i}", "label": name, "split": "train" if i % 5 else "validation"})
    table = pd.DataFrame(rows).assign(source="small", confidence=float("nan"), reason="", drawn=True)
    table["chunk_id"] = [f"c{i}" for i in range(n)]
    mistaken = table.index[table["split"] == "validation"][:wrong]
    table.loc[mistaken, "label"] = [CLASSES[1 - CLASSES.index(name)] for name in table.loc[mistaken, "label"]]
    return table


def trained(config: Config, run: RunFolder, labels: pd.DataFrame, **changes: Any) -> Classifier:
    options = {"pool": labels["text"].tolist(), "shares": estimate_shares([], CLASSES), "balance": "auto", **changes}
    return train(1, labels, config=config, run=run, **options)


def sureness(classifier: Classifier) -> float:
    return float(classifier.predict_proba(["goal team", "rain sun"]).max(axis=1).mean())


def test_the_validation_set_says_how_sure_the_saved_classifier_is(config: Config, run: RunFolder) -> None:
    right = trained(config, run, labelled())
    half_wrong = trained(config, run, labelled(wrong=4))
    assert right.training["temperature"] < TEMPERATURE < half_wrong.training["temperature"]
    assert sureness(right) > sureness(half_wrong)
    saved = Classifier.load(run.classifier(1))
    assert saved.training["temperature"] == half_wrong.training["temperature"]
    assert sureness(saved) == pytest.approx(sureness(half_wrong), abs=1e-5)


def test_equal_labels_give_the_classifier_that_is_there(config: Config, run: RunFolder) -> None:
    trained(config, run, labelled())
    before = (run.classifier(1) / "model.safetensors").stat().st_mtime_ns
    trained(config, run, labelled())
    assert (run.classifier(1) / "model.safetensors").stat().st_mtime_ns == before
    trained(config, run, labelled(), shares=estimate_shares(["sports"] * 30, CLASSES))
    assert (run.classifier(1) / "model.safetensors").stat().st_mtime_ns > before


def test_another_calibration_of_the_llms_confidence_makes_another_classifier(config: Config, run: RunFolder) -> None:
    labels = labelled().assign(confidence=0.9)
    before = trained(config, run, labels).training
    write_json(run.agreement, {"confidence": {"slope": 0.2, "shift": -1.0, "calibrated_on": 40}})
    after = trained(config, run, labels).training
    assert before["calibration"]["texts"] == 0
    assert (after["calibration"]["slope"], after["calibration"]["texts"]) == (0.2, 40)


def test_a_class_that_the_pool_hardly_has_becomes_less_likely_unless_balance_is_none(
    config: Config, run: RunFolder
) -> None:
    few_weather = estimate_shares(["sports"] * 60, CLASSES)  # weather: at most 6 % of the pool, half of the train set
    unknown = ["neither word"]
    labels = labelled(wrong=1)  # 16 and 16 to train on; with the validation set 19 and 21, which do not count
    plain = trained(config, run, labels, balance="none", shares=few_weather)
    again = trained(config, run, labels, balance="none")
    corrected = trained(config, run, labels, shares=few_weather)
    assert plain.predict_proba(unknown) == pytest.approx(again.predict_proba(unknown), abs=1e-6)
    odds = [np.log(p[0] / p[1]) for p in (c.predict_proba(unknown)[0] for c in (corrected, plain))]
    assert odds[0] > odds[1] + 1
    assert corrected.training["log_prior"] == log_correction([16, 16], few_weather)
    # It is calibrated before that: its validation texts are of the batches, as its train set is.
    assert corrected.training["temperature"] == pytest.approx(again.training["temperature"])
    assert odds[0] - odds[1] == pytest.approx(corrected.training["log_prior"][0] - corrected.training["log_prior"][1])


def test_validation_texts_that_were_not_drawn_at_random_say_less_of_how_sure_it_may_be(
    config: Config, run: RunFolder
) -> None:
    labels = labelled(wrong=4)
    all_drawn = trained(config, run, labels).training["temperature"]
    mistaken = labels.index[labels["split"] == "validation"][:4]
    labels.loc[mistaken, "drawn"] = False
    assert TEMPERATURE < trained(config, run, labels).training["temperature"] < all_drawn


def test_a_classifier_is_kept_while_all_texts_that_it_read_may_be_trained_on(config: Config, run: RunFolder) -> None:
    labels, others = labelled(), ["goal snow", "sun team"]

    def made_at(*pool: str) -> int:
        trained(config, run, labels, pool=[*labels["text"], *pool])
        return (run.classifier(1) / "model.safetensors").stat().st_mtime_ns

    first = made_at(*others)
    assert made_at(*others, "a text that came later") == first
    second = made_at(others[0])
    assert second > first  # the other one may be in the test set now
    labels.loc[0, "label"] = None  # no LLM could label it; the encoder read it all the same
    third = made_at(others[0])
    assert made_at(others[0]) == third
    assert trained(config, run, labels, pool=[*labels["text"][1:], others[0]]).training["read"]
    assert (run.classifier(1) / "model.safetensors").stat().st_mtime_ns > third


def test_labels_are_trained_on_as_far_as_they_are_believed_and_a_persons_wholly(config, run, monkeypatch) -> None:
    given, fit = [], iteration.fit

    def fitted(*data: Any, targets: Any, **more: Any) -> Any:
        given.append(targets)
        return fit(*data, targets=targets, **more)

    monkeypatch.setattr(iteration, "fit", fitted)
    labels = labelled().assign(confidence=0.99)
    labels.loc[1, "confidence"] = 0.05
    labels.loc[[2, 4], "source"] = "human"
    labels.loc[[2, 4], "confidence"] = float("nan")
    trained(config, run, labels)
    [targets] = given
    first, second, third, fourth = targets[range(4), [CLASSES.index(name) for name in labels.loc[1:4, "label"]]]
    assert first < third < 1
    assert (second, fourth) == (1, 1)
