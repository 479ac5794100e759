"""The loop: label a batch, train, evaluate on the sealed test set, stop or go on.

An iteration can be repeated at any time: labels come from the store, a classifier that is still up to date is kept,
and the list of chosen texts only ever grows. So a killed run goes on where it was, and one more iteration by hand is
the same as a larger `max_iters`. How texts are chosen and labelled, a classifier trained and measured, and what the
report says, is in batches, iteration, stopping and run_report.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import pandas as pd

from nbhelpers.audit import TruthEstimate
from nbhelpers.batches import open_batches, pool_shares, settle_labels, why_chosen
from nbhelpers.cascade import examine_labels, tell_unsettled
from nbhelpers.config import Config
from nbhelpers.errors import BudgetError, RunFolderError
from nbhelpers.human_labels import accuracy_against_people, human_labels, supported, tell_support
from nbhelpers.ingest import tell_unread
from nbhelpers.iteration import Iteration, find_better, measure, train
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks, read_test_labels
from nbhelpers.learning_curve import Outlook
from nbhelpers.lock import one_step
from nbhelpers.looks import is_worth_a_look, look_at
from nbhelpers.reliability import reliability_table
from nbhelpers.resume import is_bought, read_earlier
from nbhelpers.rules import read_rules
from nbhelpers.run_folder import RunFolder, write_json, write_table
from nbhelpers.run_report import look_ahead, report_content, tell_baseline, warnings
from nbhelpers.running_costs import routes
from nbhelpers.selection import random_order
from nbhelpers.stopping import converged, target_reached
from nbhelpers.test_set import Pool, open_pool
from nbhelpers.training import describe_balance

SAMPLE = 300  # pool texts whose predictions show whether the classifier still changes
TABLE_COLUMNS = [
    *("iteration", "labels", "failed_labels", "train_size", "validation_size", "test_size", "accuracy", "accuracy_low"),
    *("accuracy_high", "lower_bound", "macro_f1", "validation_accuracy", "seconds"),
]


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
        self.balance: str = config.training.balance  # these two as a person chose them last
        self.selection: str = config.training.selection
        self.done: list[Iteration] = []
        self.status: str | None = None
        self._labelled: dict[tuple[str, ...], pd.DataFrame] = {}  # by batch
        self._notes: list[str] = []
        self.watchers: dict[str, Callable[[], object]] = {}  # by name; called after each step
        self._earlier = read_earlier(config, run)
        self._written = _told_apart([*self._earlier.rows.values()])  # the report as this kernel knows it
        self._taking_up = True  # what an earlier kernel did, until `begin` is through
        self._turn = threading.RLock()  # one step at a time, whether a cell takes it or a widget's thread

    @cached_property
    def pool(self) -> Pool:
        """The chunks that may be trained on."""
        return open_pool(self.config, self.run, self.chunks, self.test["chunk_id"].tolist())

    @cached_property
    def sample(self) -> pd.DataFrame:
        """Random chunks of the pool, the same for all iterations, which show whether labels still change anything."""
        pool = self.pool.chunks.set_index("chunk_id")
        ids = random_order(pool.index.tolist(), self.config.system.seed, purpose="sample")[:SAMPLE]
        return pool.loc[ids].reset_index()

    @property
    def final(self) -> Iteration:
        """The last iteration, whose classifier is the final one."""
        if not self.done:
            raise RunFolderError("No iteration has been done yet: call step() or run_until_done() first.")
        return self.done[-1]

    @property
    def batches_opened(self) -> int:
        """How many batches of labels the iterations so far have used."""
        return len(self._own)

    @property
    def _own(self) -> list[Iteration]:
        """The iterations that are no copy of an earlier one."""
        return [iteration for iteration in self.done if "copy_of" not in iteration.row]

    @property
    def _labels(self) -> int:
        """How many texts the iterations so far have used, failed labels included."""
        return max((len(iteration.labels) for iteration in self.done), default=0)

    @property
    def last_batch(self) -> list[str]:
        """The chunk ids that the last iteration labelled and the one before it had not."""
        before = set(self._own[-2].labels["chunk_id"]) if len(self._own) > 1 else set()
        return [chunk_id for chunk_id in self._own[-1].labels["chunk_id"] if chunk_id not in before]

    @property
    def more_to_learn(self) -> bool:
        """Whether another iteration would have another label than the last one."""
        return self._labels < len(self.pool.chunks) or self.corrected()

    def table(self) -> pd.DataFrame:
        """The iterations so far, a row each, with the figures that matter."""
        return pd.DataFrame([iteration.row for iteration in self.done])[TABLE_COLUMNS].set_index("iteration").round(3)

    def reliability(self) -> pd.DataFrame:
        """How often the test labels say the same, in bins of the final classifier's confidence (see reliability)."""
        known = self.test_predictions().dropna(subset="label")
        return reliability_table(known["probability"].tolist(), known["predicted"].eq(known["label"]).tolist())

    def class_counts(self) -> dict[str, int]:
        """Texts by class that the last classifier was trained on."""
        labels = self.final.labels
        counts = labels.loc[labels["split"] == "train", "label"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.classes}

    def truth(self) -> TruthEstimate | None:
        """The final classifier's accuracy against people's labels; None without labels of random test texts."""
        return accuracy_against_people(
            self.final.predicted, self.test, config=self.config, run=self.run, store=self.store
        )

    def examine_labels(self) -> pd.DataFrame:
        """The last iteration's labels beside what a classifier says that never saw them (see cascade).

        Besides, small_label: what the small LLM had said.
        """
        small = pd.concat(self._labelled.values()).drop_duplicates("chunk_id").set_index("chunk_id")["label"]
        examined = examine_labels(self.final.labels, config=self.config, run=self.run)
        return examined.assign(small_label=examined["chunk_id"].map(small))

    def test_predictions(self) -> pd.DataFrame:
        """The test set with the final classifier's class (predicted) and how probable that is (probability)."""
        return self.test.assign(predicted=self.final.predicted, probability=self.final.probability)

    def balance_tables(self) -> dict[str, pd.DataFrame]:
        """What each choice of `balance` does with these texts: choice -> class, texts, share, weight."""
        return {choice: describe_balance(self.class_counts(), choice) for choice in ("none", "weights", "auto")}

    def pool_shares(self) -> pd.DataFrame:
        """The classes' estimated shares of the pool with their intervals (see class_shares)."""
        return pool_shares(self.final.labels, self.pool.chunks, config=self.config, store=self.store)

    def why_chosen(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Texts by why they were chosen and what they turned out to be, and examples (see batches)."""
        return why_chosen(self.final.labels, config=self.config, store=self.store)

    def choose(self, *, balance: str | None = None, selection: str | None = None) -> None:
        """Takes another `balance` or `selection` from the next iteration on, in a new kernel too."""
        self._take(balance=balance, selection=selection)
        if self.done and self._turn.acquire(blocking=False):  # an iteration at work writes it at its end
            try:
                self._note_choice()
            finally:
                self._turn.release()

    def _take(self, *, balance: str | None = None, selection: str | None = None) -> None:
        self.balance, self.selection = balance or self.balance, selection or self.selection

    def _note_choice(self) -> None:
        """Into the report as it is there, which another run may have written meanwhile."""
        with one_step(self.run.root):
            report = self.run.read_json(self.run.report, made_by="04_train")
            write_json(self.run.report, {**report, "chosen": self._chosen})

    @property
    def _chosen(self) -> dict[str, str]:
        return {"balance": self.balance, "selection": self.selection}

    def notes(self) -> list[str]:
        """Plain warnings that belong beside the figures."""
        ids = self.test["chunk_id"].tolist()
        people = tell_support(*supported(ids, config=self.config, run=self.run, store=self.store))
        unread = tell_unread(self.run.read_table(self.run.documents, made_by="01_ingest"))
        baseline = tell_baseline(self.final.row, config=self.config) if self.done else []
        support = warnings(self.test, self.pool, chunks=self.chunks, config=self.config, run=self.run, store=self.store)
        last = self.final.labels if self.done else self.test.head(0)
        unsettled = tell_unsettled(last, config=self.config, store=self.store)
        return [*self._notes, *baseline, *unsettled, *unread, *support, *people]

    def report(self) -> dict[str, Any]:
        """The content of report.json as things stand."""
        content = report_content(
            self.done,
            self.test,
            status=self.status or "running",
            notes=self.notes(),
            truth=self.truth() if self.done else None,
            outlook=self.outlook(),
            config=self.config,
            run=self.run,
            store=self.store,
        )
        return {**content, "chosen": self._chosen}

    def begin(self) -> None:
        """The first iteration, and those that an earlier kernel finished after it, without buying anything twice.

        What a person chose then, and iterations asked for by hand, are taken up too. Called again it does nothing.
        """
        if not self._taking_up:
            return
        while not self.done or self._goes_on():
            self._take(**self._earlier.chosen_for(len(self.done) + 1))
            if self.step() is None:  # all texts are labelled, and a person's label is learned from already
                break
        self._taking_up = False
        self._take(**self._earlier.chosen)
        with self._turn, one_step(self.run.root):
            self._check_alone()
            self._write_report()

    def routes(self) -> str:
        """Who gave the labels of the last iteration, what share, and for how much."""
        return routes(self.final.row["labelled_by"], config=self.config, store=self.store)

    def outlook(self) -> Outlook | None:
        """What one more batch is likely to bring and to cost; None with one iteration, or where no text is left."""
        more = min(self.config.training.train_set_increment, len(self.pool.chunks) - self._labels)
        return look_ahead(self.done, self.test["label"].tolist(), more=more, config=self.config, store=self.store)

    def corrected(self) -> bool:
        """Whether people have given other labels since the last iteration, or taken theirs back."""
        labels = self._own[-1].labels
        given = labels["chunk_id"].map(human_labels(self.config, self.run, self.store).labels)
        other, taken_back = given.notna() & (given != labels["label"]), given.isna() & (labels["source"] == "human")
        return bool((other | taken_back).any())

    def run_until_done(self) -> dict[str, Any]:
        """Iterates until the target, `max_iters` or the end of the texts; returns report.json's content."""
        self.begin()
        while self.go_on() is not None:
            pass
        return self.report()

    def go_on(self) -> Iteration | None:
        """The next iteration, unless the loop has ended, in another thread perhaps."""
        with self._turn:
            return self.step() if self.status is None else None

    def step(self) -> Iteration | None:
        """One more iteration, beyond `max_iters` too; None where no text is left to label, or no money."""
        with self._turn, one_step(self.run.root):
            made = self._step()
        for told in list(self.watchers.values()):  # a cell may add one meanwhile
            told()
        return made

    def _step(self) -> Iteration | None:
        self._check_alone()
        number, by_hand = len(self.done) + 1, self.status is not None
        balance, selection = self.balance, self.selection  # what is chosen meanwhile is for the next one
        started = time.perf_counter()
        batches = open_batches(
            self.batches_opened + 1,
            self.pool.chunks,
            labels=max((iteration.labels for iteration in self.done), key=len, default=None),
            config=self._as_chosen(),
            run=self.run,
            store=self.store,
        )
        used_up = number > 1 and sum(map(len, batches)) == self._labels
        if used_up and not self.corrected():
            if self.status is None:
                self._finish("no_more_chunks")
            return None
        labels = self._label(batches)
        spent = labels["reason"] == NOT_ASKED
        if self.done and spent.tail(len(batches[-1])).all():
            self._finish("budget")
            return None
        labels = labels[~spent].reset_index(drop=True)
        if labels.empty:
            raise BudgetError("cost.budget_usd is spent before the first text of the train set. Raise it to go on.")
        shares = pool_shares(labels, self.pool.chunks, config=self.config, store=self.store)
        classifier = train(
            number,
            labels,
            pool=self.pool.chunks["text"].tolist(),
            shares=shares,
            balance=balance,
            config=self.config,
            run=self.run,
        )
        seconds, training = time.perf_counter() - started, classifier.training.get("seconds", 0.0)
        if seconds < training:  # it was trained in an earlier start, and is only loaded
            seconds = self._earlier.rows.get(number, {}).get("seconds", training)
        iteration = measure(
            number,
            classifier,
            labels=labels,
            test=self.test,
            sample=self.sample,
            balance=balance,
            seconds=seconds,
        )
        iteration.row.update(selection=selection, by_hand=by_hand)
        self.done.append(iteration)
        # One more by hand is the last one now, and decides; one that failed leaves things as they were.
        self.status = None
        print(f"{iteration}, target {self.config.system.required_accuracy:.3f}", flush=True)
        if is_worth_a_look(iteration, config=self.config, run=self.run):
            look_at(iteration, run=self.run)
        if self._reached(iteration):
            self._finish("target_reached")
        elif spent.any():
            self._finish("budget")
        elif number >= self.config.training.max_iters:
            self._finish("max_iters")
        elif converged([iteration.sampled for iteration in self._own]):
            self._finish("converged")
        self._write_report()
        return iteration

    def _check_alone(self) -> None:
        """Nobody has written other iterations into the report since this kernel did."""
        if not self.run.report.exists():
            return
        there = _told_apart(self.run.read_json(self.run.report, made_by="04_train")["iterations"])
        if there != self._written:
            raise RunFolderError(
                f"Another run has changed {self.run.name} since: it holds {len(there)} iterations, and "
                f"{len(self._written)} are known here. Run this notebook again from its first cell."
            )

    def _as_chosen(self) -> Config:
        """The config with what a person chose for the next iteration."""
        chosen = self.config.training.model_copy(update={"balance": self.balance, "selection": self.selection})
        return self.config.model_copy(update={"training": chosen})

    def _label(self, batches: list[list[str]]) -> pd.DataFrame:
        """The labels of all batches; the small LLM is asked about each batch once, whatever failed."""
        texts = self.chunks.set_index("chunk_id")["text"]
        for batch in batches:
            if tuple(batch) not in self._labelled:
                table = pd.DataFrame({"chunk_id": batch, "text": texts.loc[batch].tolist()})
                self._labelled[tuple(batch)] = label_chunks(
                    table, size="small", rules=self.rules, config=self.config, store=self.store
                )
        labelled = [self._labelled[tuple(batch)] for batch in batches]
        return settle_labels(
            labelled, pool=self.pool.chunks, rules=self.rules, config=self.config, run=self.run, store=self.store
        )

    def _reached(self, iteration: Iteration) -> bool:
        system = self.config.system
        return target_reached(iteration.row, target=system.required_accuracy, rule=system.stop_rule)

    def _finish(self, status: str) -> None:
        """Ends the loop. Without the target, a clearly better earlier classifier becomes the last one.

        The last one is always looked at: an end for reasons other than test labels is no choice by them.
        """
        if status != "target_reached":
            self._bring_back_better()
            look_at(self.final, run=self.run)
            if self._reached(self.final):
                status = "target_reached"
        self.status = status
        self._write_report()

    def _goes_on(self) -> bool:
        """Whether an earlier kernel finished the next iteration, too, and the small LLM is to be asked nothing for it.

        The large one may be, where another `labeling.cascade` counts since.
        """
        row = self._earlier.rows.get(len(self.done) + 1)
        if row is None or "copy_of" in row or not (self.status is None or row.get("by_hand", False)):
            return False
        return is_bought(row, self.pool.chunks, rules=self.rules, config=self.config, store=self.store)

    def _write_report(self) -> None:
        """Writes report.json and the labels, and at the end drops classifiers of other runs.

        Not while earlier iterations are taken up: what is there then is of the last of them.
        """
        if self._taking_up and self._goes_on():
            return
        write_table(self.run.train_labels, self._own[-1].labels)
        if self.status is not None and (others := self.run.forget_iterations(self.final.number + 1)):
            removed = ", ".join(f"classifier_{number}" for number in others)
            print(f"{removed} removed: this run ends with classifier_{self.final.number}.", flush=True)
        report = self.report()
        write_json(self.run.report, report)
        self._written = _told_apart(report["iterations"])

    def _bring_back_better(self) -> None:
        last, best = self.final, find_better(self.done, run=self.run)
        if best is None:
            return
        look_at(best, run=self.run)
        number = last.number + 1
        self.run.copy_iteration(best.number, to=number)
        row = {**best.row, "iteration": number, "copy_of": best.number, "seconds": 0.0}
        self.done.append(replace(best, number=number, row=row))
        self._notes.append(
            f"classifier_{number} is a copy of classifier_{best.number}, which is clearly better than "
            f"classifier_{last.number} on the {last.row['validation_size']} validation texts."
        )


def _told_apart(iterations: list[dict[str, Any]]) -> list[Any]:
    """What tells a report's iterations from another's; not their seconds, which a second start may count anew."""
    return [[row[name] for name in ("iteration", "labels", "accuracy", "macro_f1")] for row in iterations]
