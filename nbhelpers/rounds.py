"""The loop: label a batch, train, evaluate on the sealed test set, stop or go on.

An iteration can be repeated at any time: labels come from the store, a classifier that is still up to date is kept,
and the list of chosen texts only ever grows. So a killed run goes on where it was, and one more iteration by hand is
the same as a larger `max_iters`. How a text is labelled, a classifier fitted or a figure drawn is not decided here.
"""

import hashlib
import json
import platform
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from nbhelpers.audit import TruthEstimate, draw_audit, support_claim, truth_interval
from nbhelpers.cascade import doubtful_labels, send_on
from nbhelpers.classifier import Classifier, TrainingSettings, describe_balance, fit
from nbhelpers.config import Config
from nbhelpers.errors import BudgetError, ChatError, ClassifierError, ConfigError, RunFolderError
from nbhelpers.evaluation import Evaluation, clearly_better, evaluate, lower_bound, smallest_correct
from nbhelpers.human_labels import human_labels
from nbhelpers.ingest import count_ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks, read_test_labels
from nbhelpers.llms import usage
from nbhelpers.lock import one_step
from nbhelpers.models import find_model
from nbhelpers.progress import counter, progress_bar
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder, write_json, write_table, write_text
from nbhelpers.selection import choose, random_order, validation_share
from nbhelpers.test_set import Pool, open_pool

MOST_CANDIDATES = 1000  # pool texts that the last classifier looks at to choose the next batch
TABLE_COLUMNS = [
    *("iteration", "labels", "failed_labels", "train_size", "validation_size", "test_size", "accuracy", "accuracy_low"),
    *("accuracy_high", "lower_bound", "macro_f1", "validation_accuracy", "seconds"),
]
REPORTED_VERSIONS = ("nbhelpers", "torch", "transformers", "openai", "pandas", "scikit-learn")


@dataclass(frozen=True)
class Iteration:
    """What one iteration made; `row` is its entry in report.json, `predicted` the classes of all test texts."""

    number: int
    row: dict[str, Any]
    labels: pd.DataFrame
    evaluation: Evaluation
    predicted: list[str]


class Rounds:
    """The iterations of one run folder.

    Args:
        config: its training and system sections say how.
        run: holds chunks, rules and test labels; classifiers, datasets and report.json are written to it.
        store: the label store of that run folder.
    """

    def __init__(self, config: Config, run: RunFolder, store: LabelStore) -> None:
        self.config, self.run, self.store = config, run, store
        self.classes = config.classification.classes
        self.chunks = run.read_table(run.chunks, made_by="01_ingest")
        self.rules = read_rules(run)
        self.test = read_test_labels(run)
        self.balance: str = config.training.balance
        self.done: list[Iteration] = []
        self.classifier: Classifier | None = None  # the last iteration's; earlier ones are only on disk
        self.status: str | None = None
        self._labelled: dict[tuple[str, ...], pd.DataFrame] = {}  # by batch
        self._notes: list[str] = []
        if self.test["label"].notna().sum() == 0:
            raise RunFolderError("No text of the test set has a label. See its reasons in 03_test_labels.")

    @cached_property
    def pool(self) -> Pool:
        """The chunks that may be trained on."""
        return open_pool(self.config, self.run, self.chunks, self.test["chunk_id"].tolist())

    @property
    def final(self) -> Iteration:
        """The last iteration, whose classifier is the final one."""
        if not self.done:
            raise RunFolderError("No iteration has been done yet: call step() or run_until_done() first.")
        return self.done[-1]

    def table(self) -> pd.DataFrame:
        """The iterations so far, a row each, with the figures that matter."""
        return pd.DataFrame([iteration.row for iteration in self.done])[TABLE_COLUMNS].set_index("iteration").round(3)

    def class_counts(self) -> dict[str, int]:
        """Texts by class that the last classifier was trained on."""
        labels = self.final.labels
        counts = labels.loc[labels["split"] == "train", "label"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.classes}

    def truth(self) -> TruthEstimate | None:
        """The accuracy against people's labels of test texts drawn at random; None where there are none of these."""
        ids = self.test["chunk_id"].tolist()
        people = human_labels(self.config, self.run, self.store)
        given = {chunk_id: label for chunk_id, label in people.labels.items() if chunk_id in set(ids)}
        order = draw_audit(ids, len(ids), self.config.system.seed)
        claim = support_claim(order, set(given), declared=people.declared & set(ids)).claim
        if not claim:
            return None
        place = {chunk_id: i for i, chunk_id in enumerate(ids)}
        predicted = self.final.predicted
        return truth_interval(
            [said == label for said, label in zip(predicted, self.test["label"], strict=True)],
            [place[chunk_id] for chunk_id in claim],
            [predicted[place[chunk_id]] == given[chunk_id] for chunk_id in claim],
        )

    def doubtful_labels(self) -> pd.DataFrame:
        """Labels of the last iteration that are likely wrong, most doubtful first; none is dropped."""
        return doubtful_labels(self.final.labels, config=self.config, run=self.run)

    def balance_tables(self) -> dict[str, pd.DataFrame]:
        """What each choice of `balance` does with these texts: choice -> class, texts, share, weight."""
        return {choice: describe_balance(self.class_counts(), choice) for choice in ("none", "weights", "auto")}

    def choose_balance(self, choice: str) -> None:
        """Takes another `balance` from the next iteration on."""
        self.balance = choice

    def run_until_done(self) -> dict[str, Any]:
        """Iterates until the target, `max_iters` or the end of the texts; returns report.json's content."""
        while self.status is None:
            self.step()
        return self.report()

    def step(self) -> Iteration | None:
        """One more iteration, beyond `max_iters` too; None where no text is left to label, or no money."""
        with one_step(self.run.root):
            return self._step()

    def _step(self) -> Iteration | None:
        number = len(self.done) + 1
        started = time.perf_counter()
        batches = self._batches(1 + sum("copy_of" not in iteration.row for iteration in self.done))
        if number > 1 and sum(map(len, batches)) == max(len(iteration.labels) for iteration in self.done):
            if self.status is None:
                self._finish("no_more_chunks")
            return None
        self.status = None  # one more by hand: what it makes is the last one, and decides
        labels = self._label(batches)
        spent = labels["reason"] == NOT_ASKED
        if self.done and spent.tail(len(batches[-1])).all():
            self._finish("budget")
            return None
        labels = labels[~spent].reset_index(drop=True)
        if labels.empty:
            raise BudgetError("cost.budget_usd is spent before the first text of the train set. Raise it to go on.")
        write_table(self.run.train_labels, labels)
        self.classifier = self._train(number, labels)
        iteration = self._evaluate(number, labels, self.classifier, time.perf_counter() - started)
        self.done.append(iteration)
        self._tell(iteration)
        if self._reached(iteration):
            self._finish("target_reached")
        elif spent.any():
            self._finish("budget")
        elif number >= self.config.training.max_iters:
            self._finish("max_iters")
        write_json(self.run.report, self.report())
        return iteration

    def report(self) -> dict[str, Any]:
        """The content of report.json as things stand."""
        documents = self.run.read_table(self.run.documents, made_by="01_ingest")
        final = self.done[-1].row if self.done else None
        report: dict[str, Any] = {
            "status": self.status or "running",
            "target": self.config.system.required_accuracy,
            "stop_rule": self.config.system.stop_rule,
            "iterations": [iteration.row for iteration in self.done],
            "final": None,
            "claim": None,
            "llm": usage(self.config, self.store),
            "llms_agree": self.run.read_json(self.run.agreement, made_by="03_test_labels")
            if self.run.agreement.exists()
            else None,
            "ingest": count_ingest(documents, self.chunks),
            "notes": self.notes(),
            "config": self.config.public(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in REPORTED_VERSIONS}},
        }
        if final is not None:
            keys = ("accuracy", "accuracy_low", "accuracy_high", "majority_baseline")
            report["final"] = {"classifier": f"classifier_{final['iteration']}", **{key: final[key] for key in keys}}
            truth = self.truth()
            report["truth"] = None if truth is None else asdict(truth)
            report["claim"] = {"lower_bound": final["lower_bound"], "confidence": 0.95, "looks": final["looks"]}
        return report

    def _batches(self, number: int) -> list[list[str]]:
        """The chunk ids of the first `number` batches; chooses more texts where the list is too short."""
        training = self.config.training
        wanted = training.train_set_size + (number - 1) * training.train_set_increment
        pool = self.pool.chunks
        eligible = set(pool["chunk_id"])
        chosen = [chunk_id for chunk_id in self.store.selected() if chunk_id in eligible]
        if len(chosen) < wanted:
            candidates = pool[~pool["chunk_id"].isin(set(chosen))]
            more = self._choose(candidates, wanted - len(chosen))
            self.store.add_selected(list(zip(more["chunk_id"], more["why"], strict=True)))
            chosen += more["chunk_id"].tolist()
        chosen = chosen[:wanted]
        ends = [training.train_set_size + i * training.train_set_increment for i in range(number)]
        return [chosen[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True) if chosen[start:end]]

    def _choose(self, candidates: pd.DataFrame, n: int) -> pd.DataFrame:
        training, seed = self.config.training, self.config.system.seed
        if training.selection == "random" or self.classifier is None or len(candidates) <= n:
            return choose(candidates, n=n, seed=seed, strategy="random", probabilities=None)
        few = candidates.set_index("chunk_id").loc[
            random_order(candidates["chunk_id"].tolist(), seed)[: max(MOST_CANDIDATES, n)]
        ]
        few = few.reset_index()
        probabilities = self.classifier.predict_proba(few["text"].tolist())
        return choose(few, n=n, seed=seed, strategy=training.selection, probabilities=probabilities)

    def _label(self, batches: list[list[str]]) -> pd.DataFrame:
        """The labels of all batches; one that this object has labelled before is not labelled again."""
        texts = self.chunks.set_index("chunk_id")["text"]
        for batch in batches:
            if tuple(batch) not in self._labelled:
                table = pd.DataFrame({"chunk_id": batch, "text": texts.loc[batch].tolist()})
                self._labelled[tuple(batch)] = label_chunks(
                    table, size="small", rules=self.rules, config=self.config, store=self.store
                )
        labels = pd.concat([self._labelled[tuple(batch)] for batch in batches], ignore_index=True)
        labels = send_on(labels, rules=self.rules, config=self.config, run=self.run, store=self.store)
        human = human_labels(self.config, self.run, self.store).labels
        corrected = labels["chunk_id"].isin(human)
        labels.loc[corrected, "label"] = labels.loc[corrected, "chunk_id"].map(human)
        labels.loc[corrected, "source"] = "human"
        in_validation = validation_share(labels["chunk_id"].tolist())
        return labels.assign(split=["validation" if held_out else "train" for held_out in in_validation])

    def _train(self, number: int, labels: pd.DataFrame) -> Classifier:
        usable = labels[labels["label"].notna()]
        train = usable[usable["split"] == "train"]
        if usable.empty:
            [(reason, _)] = Counter(labels["reason"]).most_common(1)
            raise ChatError(
                f"None of the {len(labels)} texts got a label ({reason}). "
                "Look at the replies in labels.sqlite, or try another api.small_model."
            )
        if train.empty:
            raise ConfigError(f"All {len(usable)} labels are in the validation set. Raise training.train_set_size.")
        columns = ["text", "label", "chunk_id", "source", "confidence"]
        rows = [{k: v for k, v in row.items() if pd.notna(v)} for row in train[columns].to_dict("records")]
        dataset = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        settings = TrainingSettings(seed=self.config.system.seed, balance=self.balance)
        wanted = {"dataset": _hash(dataset), "base_model": self.config.training.model_path, "classes": self.classes}
        folder = self.run.classifier(number)
        kept = _load_if_made_from(folder, {**wanted, "settings": settings.fingerprint()})
        if kept is not None:
            return kept
        for stale in [n for n in self.run.iterations() if n >= number]:
            shutil.rmtree(self.run.classifier(stale))
            self.run.dataset(stale).unlink(missing_ok=True)
        with progress_bar(None, desc=f"training classifier_{number}", unit="step") as bar:
            classifier = fit(
                train["text"].tolist(),
                train["label"].tolist(),
                classes=self.classes,
                base_model=find_model(self.config.training.model_path),
                settings=settings,
                progress=counter(bar),
            )
        classifier.training.update(wanted)
        write_text(self.run.dataset(number), dataset)
        classifier.save(folder)
        return classifier

    def _evaluate(self, number: int, labels: pd.DataFrame, classifier: Classifier, seconds: float) -> Iteration:
        known = self.test[self.test["label"].notna()]
        predicted = predict(classifier, self.test["text"])
        evaluation = evaluate(
            known["label"].tolist(), predicted[self.test["label"].notna().to_numpy()], classes=self.classes
        )
        usable = labels[labels["label"].notna()]
        validation = usable[usable["split"] == "validation"]
        right = predict(classifier, validation["text"]) == validation["label"] if len(validation) else []
        row = {
            "iteration": number,
            "labels": len(labels),
            "train_size": int((usable["split"] == "train").sum()),
            "validation_size": len(validation),
            "test_size": evaluation.n,
            "failed_labels": int(labels["label"].isna().sum()),
            "labelled_by": {str(source): int(n) for source, n in usable["source"].value_counts().items()},
            "failed_test_labels": int(self.test["label"].isna().sum()),
            **evaluation.to_dict(),
            "lower_bound": lower_bound(evaluation.correct, evaluation.n, look=number),
            "looks": number,
            "validation_accuracy": float(sum(right) / len(right)) if len(right) else None,
            "balance": self.balance,
            "seconds": round(seconds, 2),
        }
        return Iteration(number, row, labels, evaluation, list(predicted))

    def _reached(self, iteration: Iteration) -> bool:
        row, target = iteration.row, self.config.system.required_accuracy
        shown = row["accuracy"] if self.config.system.stop_rule == "accuracy" else row["lower_bound"]
        return bool(shown >= target and row["accuracy_low"] > row["majority_baseline"])

    def _finish(self, status: str) -> None:
        """Ends the loop; without the target, a clearly better earlier classifier becomes the last one."""
        self.status = status
        if status != "target_reached":
            self._bring_back_better()
        last = self.done[-1].number
        for stale in [n for n in self.run.iterations() if n > last]:
            shutil.rmtree(self.run.classifier(stale))
            self.run.dataset(stale).unlink(missing_ok=True)
        write_json(self.run.report, self.report())

    def _bring_back_better(self) -> None:
        last = self.done[-1]
        usable = last.labels[last.labels["label"].notna() & (last.labels["split"] == "validation")]
        if usable.empty:
            return
        right = {
            number: (predict(Classifier.load(self.run.classifier(number)), usable["text"]) == usable["label"]).tolist()
            for number in (iteration.number for iteration in self.done)
        }
        better = [i for i in self.done[:-1] if clearly_better(right[i.number], right[last.number])]
        if not better:
            return
        best = max(better, key=lambda i: (sum(right[i.number]), i.number))
        number = last.number + 1
        _copy(self.run.classifier(best.number), self.run.classifier(number))
        write_text(self.run.dataset(number), self.run.dataset(best.number).read_text("utf-8"))
        row = {**best.row, "iteration": number, "copy_of": best.number, "seconds": 0.0}
        self.done.append(Iteration(number, row, best.labels, best.evaluation, best.predicted))
        self._notes.append(
            f"classifier_{number} is a copy of classifier_{best.number}, which is clearly better than "
            f"classifier_{last.number} on the {len(usable)} validation texts."
        )

    def _tell(self, iteration: Iteration) -> None:
        row = iteration.row
        print(
            f"iteration {row['iteration']}: {row['train_size']} labels to train on, accuracy {row['accuracy']:.3f} "
            f"({row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}) on {row['test_size']} test texts, "
            f"target {self.config.system.required_accuracy:.3f}, {row['seconds']:.0f} s",
            flush=True,
        )

    def notes(self) -> list[str]:
        """Plain warnings that belong beside the figures."""
        notes = list(self._notes)
        target, known = self.config.system.required_accuracy, int(self.test["label"].notna().sum())
        needed = smallest_correct(known, target, look=1)
        if self.config.system.stop_rule == "accuracy":
            bound = (
                f"{needed} right at the first look"
                if needed is not None
                else "a larger test set: all right is not enough"
            )
            notes.append(
                f"The stop rule compares the accuracy itself with the target. With {known} test texts, being 95 % sure "
                f"of {target:.2f} takes {bound}; stop_rule: lower_bound waits for that."
            )
        elif needed is None:
            notes.append(f"{known} test texts cannot show {target:.2f}, even all right: raise training.test_set_size.")
        if self.pool.scope == "chunks":
            notes.append(
                "Too few chunks to leave whole test documents out of training: the accuracy holds for new chunks of "
                "these documents, not for other documents."
            )
        chosen = self.store.selection()
        if self.config.training.selection == "random" and not chosen["why"].eq("random").all():
            notes.append(
                "Some texts were chosen by an earlier classifier, before training.selection was random: what is paid "
                "for stays. For a run at random only, use another path.output_dir."
            )
        local = {
            self.config.api_of(size).model for size in ("large", "small") if self.config.api_of(size).mode == "local"
        }
        if local:
            notes.append(
                f"Labels come from a local model ({', '.join(sorted(local))}). A small model is a weak teacher: check "
                "it against labels of your own (path.truth), or name a better LLM under api: (params/openai.yaml). "
                "Its favourite class names are corrected as if all classes were about equally frequent."
            )
        unused = [name for name in self.classes if name not in set(self.test["label"])]
        if unused:
            notes.append(f"No test text is of class {', '.join(unused)}: its figures mean nothing yet.")
        return notes


def predict(classifier: Classifier, texts: "pd.Series[str]") -> Any:
    """The likeliest class of each text, as an array of names."""
    import numpy as np

    best = classifier.predict_proba(texts.tolist()).argmax(axis=1)
    return np.array(classifier.classes, dtype=object)[best]


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


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
