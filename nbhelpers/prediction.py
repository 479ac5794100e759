"""The final classifier and all texts -> a row for every input text.

Chunks are predicted in parts that are kept as they are made, so a killed run goes on with the next part. A text that
an LLM or a person labelled keeps that label beside the classifier's own prediction; duplicates share theirs.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.errors import RunFolderError
from nbhelpers.evaluation import accuracy_interval, target_as_set
from nbhelpers.human_labels import human_labels
from nbhelpers.label_files import read_truth, without_text
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.lock import one_step
from nbhelpers.page_words import TRUTH_ROW
from nbhelpers.progress import counter, progress_bar
from nbhelpers.run_folder import RunFolder, write_json, write_table, write_text

TEXTS_PER_PART = 10_000
CLASS_COLUMN = "p_{}"


def final_classifier(run: RunFolder) -> tuple[int, Classifier]:
    """The last iteration's number and classifier: of the last one that was measured, should a later one be there.

    Raises:
        RunFolderError: there is none yet, or it was taken away for a training that did not end.
    """
    number = _final_number(run)
    return number, Classifier.load(run.classifier(number))


def _final_number(run: RunFolder) -> int:
    numbers = run.iterations()
    if not numbers:
        raise RunFolderError(f"No classifier in {run.name}. Run 04_train first.")
    report = run.read_json(run.report, made_by="04_train") if run.report.exists() else {}
    number: int = max((row["iteration"] for row in report.get("iterations", [])), default=numbers[-1])
    if number not in numbers:
        raise RunFolderError(
            f"classifier_{number}, which report.json is about, is not in {run.name}: its training was begun anew and "
            "did not end. Run 04_train."
        )
    return number


def how_good(run: RunFolder) -> str:
    """What may be expected of the final classifier, in a sentence.

    Raises:
        RunFolderError: as `final_classifier`.
    """
    report = run.read_json(run.report, made_by="04_train")
    final, target = report.get("final"), target_as_set(report["target"])
    if final is None:
        raise RunFolderError(f"No iteration is finished in {run.name}. Run 04_train first.")
    _final_number(run)
    reached = "reached the target" if report["status"] == "target_reached" else "did NOT reach the target"
    return (
        f"{final['classifier']} {reached} of {target} ({report['status']}): accuracy against the LLM's labels "
        f"{final['accuracy']:.3f}, 95 % interval {final['accuracy_low']:.3f} to {final['accuracy_high']:.3f}."
    )


def predict_all(config: Config, run: RunFolder, store: LabelStore) -> pd.DataFrame:
    """Predicts every input text, writes predictions.parquet, .jsonl and .csv, and notes how long it took.

    With `predict_on_whole_set_at_the_end` off, only the test set is predicted, and no predictions are written.

    Returns:
        A row for every input text, in the order of the files: source, position, start, end, text, label,
        label_source (classifier, LLM, human), predicted_label, probability (of predicted_label, 0 to 1), llm_label,
        one column p_<class> for each class, chunk_id, metadata.
    Raises:
        RunFolderError: another run works on the folder, or there is no classifier yet.
    """
    with one_step(run.root):
        return _predict_all(config, run, store)


def compare_with_truth(
    config: Config, run: RunFolder, predictions: pd.DataFrame
) -> dict[str, tuple[float, float, float, int]]:
    """Agreement with the LLM and accuracy against labels that a person trusts, each with its exact 95 % interval.

    Returns:
        name -> (share right, low, high, number of texts); empty where `path.truth` is not given.
    Raises:
        ConfigError: the file is missing, lacks columns or names unknown classes.
    """
    truth = read_truth(config)
    if truth is None:
        run.truth_shares.unlink(missing_ok=True)  # an earlier run's, which had a truth
        return {}
    table = predictions.merge(truth, on=["source", "position"], how="inner").drop_duplicates("chunk_id")
    unknown = without_text(truth, config, run)
    if table.empty:
        run.truth_shares.unlink(missing_ok=True)
        print("path.truth: none of its texts was predicted, so nothing is compared.")
        return {}
    if len(unknown):
        first = unknown.iloc[0]
        print(
            f"path.truth: {len(unknown)} of its {len(truth)} rows name none of the texts, such as source "
            f"{first['source']}, position {first['position']}."
        )
    test = read_test_labels(run)
    tested = table["chunk_id"].isin(test.loc[test["label"].notna(), "chunk_id"])
    pairs = {
        "LLM against the truth": table[tested]["llm_label"] == table[tested]["true_label"],
        "classifier against the LLM": table[tested]["predicted_label"] == table[tested]["llm_label"],
        TRUTH_ROW: table[tested]["predicted_label"] == table[tested]["true_label"],
        "the same, on texts no LLM saw": (table["predicted_label"] == table["true_label"])[
            table["label_source"] == "classifier"
        ],
    }
    shares = {}
    for name, right in pairs.items():
        if len(right):
            low, high = accuracy_interval(int(right.sum()), len(right))
            shares[name] = (float(right.mean()), low, high, len(right))
    found = {name: dict(zip(("share", "low", "high", "texts"), v, strict=True)) for name, v in shares.items()}
    run.write_truth_shares(_final_number(run), found)
    return shares


def _predict_all(config: Config, run: RunFolder, store: LabelStore) -> pd.DataFrame:
    number, classifier = final_classifier(run)
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    everything = config.classification.predict_on_whole_set_at_the_end
    if not everything:
        chunks = chunks[chunks["chunk_id"].isin(set(read_test_labels(run)["chunk_id"]))].reset_index(drop=True)
    if everything:
        proba = _predict_in_parts(run, number, classifier, chunks)
    else:
        started = time.perf_counter()
        proba = classifier.predict_proba(chunks["text"].tolist())
        _note_time(run, number, texts=len(chunks), seconds=time.perf_counter() - started)
    best = proba.argmax(axis=1)
    names = np.array(classifier.classes, dtype=object)
    predicted = pd.DataFrame(
        {
            "chunk_id": chunks["chunk_id"],
            "text": chunks["text"],
            "predicted_label": names[best],
            "probability": proba[np.arange(len(proba)), best],
        }
    )
    predicted["llm_label"] = predicted["chunk_id"].map(_llm_labels(run)).astype(object)
    human = predicted["chunk_id"].map(human_labels(config, run, store).labels).astype(object)
    predicted["label"] = human.fillna(predicted["llm_label"]).fillna(predicted["predicted_label"])
    predicted["label_source"] = np.where(
        human.notna(), "human", np.where(predicted["llm_label"].notna(), "LLM", "classifier")
    )
    for column, name in enumerate(classifier.classes):
        predicted[CLASS_COLUMN.format(name)] = proba[:, column]
    places = run.read_table(run.occurrences, made_by="01_ingest")
    table = places[["source", "position", "start", "end", "chunk_id", "metadata"]].merge(predicted, on="chunk_id")
    first = ["source", "position", "start", "end", "text", "label", "label_source", "predicted_label", "probability"]
    first += ["llm_label", *(CLASS_COLUMN.format(name) for name in classifier.classes), "chunk_id", "metadata"]
    table = table[first]
    if everything:
        _write(run, table, classifier.classes)
    return table


def _predict_in_parts(run: RunFolder, number: int, classifier: Classifier, chunks: pd.DataFrame) -> Any:
    folder = run.predictions / "parts" / _part_key(run, number)
    parts = []
    timed, seconds = 0, 0.0
    with progress_bar(len(chunks), desc="predicting", unit="text") as bar:
        for start in range(0, len(chunks), TEXTS_PER_PART):
            file = folder / f"{start:09}.parquet"
            texts = chunks["text"].iloc[start : start + TEXTS_PER_PART].tolist()
            part = pd.read_parquet(file).to_numpy() if file.exists() else None
            if part is None:
                before = bar.n
                move = counter(bar)
                started = time.perf_counter()
                part = classifier.predict_proba(texts, progress=lambda done, _: move(before + done, len(chunks)))  # noqa: B023
                timed, seconds = timed + len(texts), seconds + time.perf_counter() - started
                _note_time(run, number, texts=timed, seconds=seconds)
                write_table(file, pd.DataFrame(part, columns=classifier.classes))
            bar.update(start + len(texts) - bar.n)
            parts.append(part)
    return np.concatenate(parts)


def _note_time(run: RunFolder, number: int, *, texts: int, seconds: float) -> None:
    write_json(run.prediction_time, {"classifier": f"classifier_{number}", "texts": texts, "seconds": seconds})


def _part_key(run: RunFolder, number: int) -> str:
    """Names the parts by what they were made from, so that those of another classifier or ingest are not taken."""
    digest = hashlib.sha256((run.classifier(number) / "training.json").read_bytes() + run.chunks.read_bytes())
    return digest.hexdigest()[:16]


def _llm_labels(run: RunFolder) -> dict[str, str]:
    """What LLMs said of the texts of the test set and of the batches; failed labels are not among them."""
    train = run.read_table(run.train_labels, made_by="04_train")
    both = pd.concat([train[["chunk_id", "label", "source"]], read_test_labels(run)[["chunk_id", "label", "source"]]])
    both = both[both["label"].notna() & (both["source"] != "human")]
    return dict(both[["chunk_id", "label"]].itertuples(index=False, name=None))


def _write(run: RunFolder, table: pd.DataFrame, classes: Sequence[str]) -> None:
    write_table(run.predictions / "predictions.parquet", table)
    part = run.predictions / ".predictions.csv.part"
    table.to_csv(part, index=False)
    part.replace(run.predictions / "predictions.csv")
    columns = [CLASS_COLUMN.format(name) for name in classes]
    lines = []
    for row in table.to_dict("records"):
        probabilities = dict(zip(classes, (round(float(row.pop(column)), 6) for column in columns), strict=True))
        row = {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}
        row["metadata"] = json.loads(row["metadata"])
        lines.append(json.dumps({**row, "probabilities": probabilities}, ensure_ascii=False))
    write_text(run.predictions / "predictions.jsonl", "\n".join(lines) + "\n")
    shutil.rmtree(run.predictions / "parts", ignore_errors=True)
