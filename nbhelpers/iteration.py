"""One iteration's classifier: trained on the labels so far, or kept where it is up to date, and measured.

Which texts are labelled, and whether another iteration follows, is not decided here (see batches and stopping).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nbhelpers.agreement import read_calibration
from nbhelpers.alignment import aligned_encoder, how_made
from nbhelpers.calibration import fit_temperature
from nbhelpers.cascade import believed_labels
from nbhelpers.chunking import chunk_id
from nbhelpers.class_shares import log_correction
from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.errors import ClassifierError, ConfigError
from nbhelpers.evaluation import Evaluation, clearly_better, evaluate
from nbhelpers.labeling import check_labelled
from nbhelpers.progress import counter, progress_bar
from nbhelpers.run_folder import RunFolder, write_text
from nbhelpers.training import TrainingSettings, fit

# What decides the classes that a classifier predicts, apart from the machine that it is trained on; beside a correction
# of the class shares, a temperature does, too.
MADE_FROM = ("dataset", "calibration", "base_model", "encoder", "classes", "log_prior", "settings")
DATASET_COLUMNS = ["text", "label", "chunk_id", "source", "confidence"]


@dataclass(frozen=True)
class Iteration:
    """What one iteration made.

    `row` is its entry in report.json; `predicted` and `probability` are of all test texts, `sampled` the classes of
    other texts by chunk id; `fingerprint` is the same for the same classifier and test labels.
    """

    number: int
    row: dict[str, Any]
    labels: pd.DataFrame
    evaluation: Evaluation
    predicted: list[str]
    probability: list[float]
    sampled: dict[str, str]
    fingerprint: str

    def __str__(self) -> str:
        row, figures = self.row, self.evaluation
        interval = f"({figures.accuracy_low:.3f} to {figures.accuracy_high:.3f})"
        return (
            f"iteration {self.number}: {row['train_size']} labels to train on, {row['seconds']:.0f} s, "
            f"accuracy {figures.accuracy:.3f} {interval} on {figures.n} test texts"
        )


def train(
    number: int,
    labels: pd.DataFrame,
    *,
    pool: Sequence[str],
    shares: pd.DataFrame,
    balance: str,
    config: Config,
    run: RunFolder,
) -> Classifier:
    """Trains, calibrates and saves classifier `number`; one made from the same labels and settings is loaded instead.

    Labels are trained on as far as they are believed. Probabilities are calibrated by a temperature, the usual one as
    far as the validation set does not say otherwise, and then corrected for the class shares of the pool, but with
    balance "none"; both are part of what is saved.

    Args:
        number: the iteration's. Classifiers from it on, made from other labels, or from a text that may no longer be
            trained on, are removed.
        labels: all labels so far, as `settle_labels` gives them; those of the validation set, and failed ones, are not
            trained on.
        pool: the texts that may be labelled; the encoder is aligned on them, once.
        shares: the classes' shares of the pool, as `estimate_shares` gives them.
        balance: "auto", "none" or "weights".
        config, run: the encoder, seed and classes; where it is saved.
    Raises:
        ChatError: no text has a label.
        ConfigError: all labels are in the validation set.
    """
    usable = labels[labels["label"].notna()]
    texts = usable[usable["split"] == "train"]
    check_labelled(labels, config=config)
    if texts.empty:
        raise ConfigError(f"All {len(usable)} labels are in the validation set. Raise training.train_set_size.")
    rows = [{k: v for k, v in row.items() if pd.notna(v)} for row in texts[DATASET_COLUMNS].to_dict("records")]
    dataset = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    settings = TrainingSettings(seed=config.system.seed, balance=balance)
    classes, base_model = config.classification.classes, config.training.model_path
    validation = usable[usable["split"] == "validation"]
    held_out = validation[["text", "label", "drawn"]].to_json(orient="values")
    wanted = {
        "dataset": _hash(dataset),
        "calibration": asdict(read_calibration(run)),  # of the LLM's confidence, by which labels are believed
        "validation": _hash(held_out),
        "base_model": base_model,
        "classes": classes,
    }
    kept = _load_if_made_from(run.classifier(number), {**wanted, "settings": settings.fingerprint()})
    counts = [int((texts["label"] == name).sum()) for name in classes]
    still_there = kept is not None and set(kept.training["read"]) <= set(map(chunk_id, pool))
    log_prior = None if balance == "none" else log_correction(counts, shares)
    if kept is not None and still_there and kept.training["log_prior"] == log_prior:
        return kept
    run.forget_iterations(number)
    base = aligned_encoder(pool, base_model=base_model, seed=config.system.seed, run=run)
    targets = believed_labels(texts, config=config, run=run)
    with progress_bar(None, desc=f"training classifier_{number}", unit="step") as bar:
        classifier = fit(
            texts["text"].tolist(),
            texts["label"].tolist(),
            classes=classes,
            base_model=base,
            settings=settings,
            targets=targets,
            progress=counter(bar),
        )
    places = [classes.index(label) for label in validation["label"]]
    said = classifier.predict_proba(validation["text"].tolist())
    temperature = fit_temperature(said, places, drawn=validation["drawn"].tolist())
    # In this order: the validation set has about the class shares of the batches, not the pool's.
    classifier.rescale(temperature=temperature, log_prior=log_prior)
    aligned = how_made(run)
    classifier.training.update(
        wanted,
        encoder=aligned.get("made_from"),
        read=aligned.get("read", []),
        temperature=temperature,
        log_prior=log_prior,
    )
    write_text(run.dataset(number), dataset)
    classifier.save(run.classifier(number))
    return classifier


def measure(
    number: int,
    classifier: Classifier,
    *,
    labels: pd.DataFrame,
    test: pd.DataFrame,
    sample: pd.DataFrame,
    balance: str,
    seconds: float,
) -> Iteration:
    """The iteration's figures on the test set and on the validation set; no look at the test set is taken (see looks).

    Args:
        number: the iteration's, from 1.
        classifier: its classifier.
        labels: all labels so far, with split.
        test: the test set; texts without a label are counted, and left out of the figures.
        sample: texts to predict beside it; those that are labelled by now are left out.
        balance, seconds: what the iteration was trained with, and how long it took.
    """
    predicted, probability = predict(classifier, test["text"])
    test = test.assign(predicted=predicted)
    labelled = test[test["label"].notna()]
    evaluation = evaluate(labelled["label"].tolist(), labelled["predicted"].tolist(), classes=classifier.classes)
    usable = labels[labels["label"].notna()]
    validation = usable[usable["split"] == "validation"]
    right = predicted_right(classifier, validation)
    others = sample[~sample["chunk_id"].isin(labels["chunk_id"])]
    row = {
        "iteration": number,
        "labels": len(labels),
        "train_size": int((usable["split"] == "train").sum()),
        "validation_size": len(validation),
        "test_size": evaluation.n,
        "failed_labels": int(labels["label"].isna().sum()),
        "labelled_by": {str(source): int(n) for source, n in usable["source"].value_counts().items()},
        "failed_test_labels": len(test) - len(labelled),
        **evaluation.to_dict(),
        "lower_bound": None,
        "looks": None,
        "validation_correct": sum(right),
        "validation_accuracy": sum(right) / len(right) if right else None,
        "balance": balance,
        "seconds": round(seconds, 2),
    }
    said = predict(classifier, others["text"])[0] if len(others) else []
    corrected = any(classifier.training.get("log_prior") or ())
    made_from = {key: classifier.training.get(key) for key in ((*MADE_FROM, "temperature") if corrected else MADE_FROM)}
    return Iteration(
        number,
        row,
        labels,
        evaluation,
        predicted,
        probability,
        sampled=dict(zip(others["chunk_id"], said, strict=True)),
        fingerprint=_hash(json.dumps([made_from, test[["chunk_id", "label", "predicted"]].to_dict("list")])),
    )


def find_better(done: Sequence[Iteration], *, run: RunFolder) -> Iteration | None:
    """The best of the earlier iterations that are clearly better than the last one on its validation set, if any."""
    last = done[-1]
    validation = last.labels[last.labels["label"].notna() & (last.labels["split"] == "validation")]
    if validation.empty:
        return None
    right = {i.number: predicted_right(Classifier.load(run.classifier(i.number)), validation) for i in done}
    better = [i for i in done[:-1] if clearly_better(right[i.number], right[last.number])]
    return max(better, key=lambda i: (sum(right[i.number]), i.number), default=None)


def predict(classifier: Classifier, texts: "pd.Series[str]") -> tuple[list[str], list[float]]:
    """The likeliest class of each text, and its probability."""
    proba = classifier.predict_proba(texts.tolist())
    return [classifier.classes[place] for place in proba.argmax(axis=1)], proba.max(axis=1).tolist()


def predicted_right(classifier: Classifier, labels: pd.DataFrame) -> list[bool]:
    """For each labelled text, whether the classifier says the same."""
    said = predict(classifier, labels["text"])[0] if len(labels) else []
    return [one == label for one, label in zip(said, labels["label"], strict=True)]


def _load_if_made_from(folder: Path, wanted: dict[str, Any]) -> Classifier | None:
    try:
        made = json.loads((folder / "training.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if any(made.get(key) != json.loads(json.dumps(value)) for key, value in wanted.items()):
        return None
    try:
        return Classifier.load(folder)
    except ClassifierError:  # its weights are gone or damaged: it is trained again
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
