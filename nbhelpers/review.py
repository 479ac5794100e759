"""Texts for a person to label: one at a time in a queue, or out of the cells of a confusion matrix.

A view (see review_widgets) sends what the person does as a message, and shows what comes back. Each label is in the
label store before the answer goes out, so a kernel that dies loses nothing, and a queue that is opened again goes on
where it was. What a label is then used for is not decided here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.audit import compare_raters
from nbhelpers.config import Config
from nbhelpers.human_labels import random_labels
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels
from nbhelpers.run_folder import RunFolder

LIKELY_ERROR, DISAGREEMENT, LEAST_SURE = "likely label error", "the two LLMs disagree", "among the least sure"
SHOWN = "shown after a blind audit"  # the finding in the label store: chunk ids
PAGE = 20  # texts of a cell that are shown at once

View = dict[str, Any]
Message = Mapping[str, Any]
Row = Mapping[Any, Any]


class Queue:
    """Texts that a person labels one at a time, in a fixed order.

    Messages: {"do": "choose", "chunk_id": ..., "class": place in `classes`}, {"do": "move", "step": 1 or -1},
    {"do": "undo"}.

    Args:
        texts: chunk_id and text, and of label, source, confidence, reply, small_label, predicted, probability and why
            what is known.
        title: what the queue is called.
        classes: in the config's order.
        store: keeps the labels; a text that has one there is decided.
        note: kept beside each label, to tell where it was given.
        blind: what others say of the texts is shown only once all are decided, since it would sway the person.
        summary: says what came of it, once all are decided.
    """

    def __init__(
        self,
        texts: pd.DataFrame,
        *,
        title: str,
        classes: Sequence[str],
        store: LabelStore,
        note: str,
        blind: bool = False,
        summary: Callable[[], str] | None = None,
    ) -> None:
        self.texts, self.title, self.classes, self.store = texts, title, list(classes), store
        self._note, self._blind, self._summary = note, blind, summary
        self._ids: list[str] = texts["chunk_id"].tolist()
        self._place = 0
        self._go_on()

    def view(self) -> View:
        """What there is to see now, in JSON's types."""
        given = _given(self.store, self.classes)
        decided = sum(chunk_id in given for chunk_id in self._ids)
        if self._blind and decided == len(self._ids):
            self.store.note_finding(SHOWN, json.dumps(sorted({*self._shown(), *self._ids})))
        shown = self._shown()
        view: View = {"kind": "queue", "title": self.title, "classes": self.classes, "editable": True}
        view |= {"n": len(self._ids), "decided": decided, "place": self._place}
        if self._ids:
            row = self.texts.iloc[self._place].to_dict()
            chunk_id, label = row["chunk_id"], given.get(row["chunk_id"])
            view["editable"] = chunk_id not in shown
            view |= {"chunk_id": chunk_id, "text": row["text"]}
            view["details"] = details(row) if chunk_id in shown or not self._blind else []
            view["chosen"] = None if label is None else self.classes.index(label)
        if decided == len(self._ids) and self._summary is not None:
            view["summary"] = self._summary()
        return view

    def _shown(self) -> set[str]:
        """The texts that were decided blindly, and then shown with what others say of them."""
        return set(json.loads(self.store.finding(SHOWN) or "[]")) if self._blind else set()

    def act(self, message: Message) -> str:
        """Does what a message asks for; returns a sentence for the person.

        Raises:
            RunFolderError: the label could not be stored.
        """
        if message["do"] == "choose":
            if message["chunk_id"] in self._shown():
                return "What others said of it has been shown, so this label stays."
            chunk_id, label = message["chunk_id"], self.classes[message["class"]]
            self.store.set_human_label(chunk_id, label, note=self._note)
            self._place = self._ids.index(chunk_id)
            self._go_on()
            return f"Stored: {label}."
        if message["do"] == "undo":
            return self._undo()
        self._place = min(max(self._place + message["step"], 0), max(len(self._ids) - 1, 0))
        return ""

    def _undo(self) -> str:
        chunk_id = self.store.undo_human_label(set(self._ids) - self._shown(), note=self._note)
        if chunk_id is None:
            return "There is nothing to undo."
        self._place = self._ids.index(chunk_id)
        label = _given(self.store, self.classes).get(chunk_id)
        return f"Taken back: text {self._place + 1} is " + ("undecided again." if label is None else f"{label} again.")

    def _go_on(self) -> None:
        """To the next text without a decision, after the last one from the first on; stays where there is none."""
        given = _given(self.store, self.classes)
        order = [*range(self._place, len(self._ids)), *range(self._place)]
        self._place = next((place for place in order if self._ids[place] not in given), self._place)


class Matrix:
    """A confusion matrix whose cells open; with a store, a person may move a text to another class.

    Messages: {"do": "open", "row": ..., "column": ...} (places in `classes`), {"do": "more"}, and with a store those
    of a queue to choose and to undo. A text that was moved counts where it is now, and stays listed where it was found
    until another cell is opened.

    Args:
        texts: as for a queue, with label and predicted; in each cell they keep this order.
        title: what the matrix is of.
        rows, columns: whose labels stand down and across.
        classes: in the config's order.
        store: gets the labels; None to read only.
        note: kept beside each label, to tell where it was given.
    """

    def __init__(
        self,
        texts: pd.DataFrame,
        *,
        title: str,
        rows: str,
        columns: str,
        classes: Sequence[str],
        store: LabelStore | None = None,
        note: str = "",
    ) -> None:
        self.texts, self.title, self.rows, self.columns = texts[texts["label"].notna()], title, rows, columns
        self.classes, self._store, self._note = list(classes), store, note
        self._cell: tuple[int, int] | None = None
        self._listed: list[str] = []
        self._shown = PAGE

    def confusion(self) -> pd.DataFrame:
        """Counts: labels down, predicted classes across; people's labels count in place of an LLM's."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=int)
        np.add.at(counts, tuple(self._places().T), 1)
        return pd.DataFrame(counts, index=self.classes, columns=self.classes)

    def view(self) -> View:
        """What there is to see now, in JSON's types."""
        given = self._given()
        listed = self.texts.set_index("chunk_id", drop=False).loc[self._listed[: self._shown]]
        texts = []
        for row in listed.to_dict("records"):
            yours = given.get(row["chunk_id"])
            place = self.classes.index(yours or row["label"])
            shown = {"chunk_id": row["chunk_id"], "text": row["text"], "details": details(row)}
            texts.append({**shown, "class": place, "yours": yours is not None})
        return {
            "kind": "matrix",
            "title": self.title,
            "rows": self.rows,
            "columns": self.columns,
            "classes": self.classes,
            "counts": self.confusion().to_numpy().tolist(),
            "editable": self._store is not None,
            "cell": None if self._cell is None else list(self._cell),
            "texts": texts,
            "more": max(len(self._listed) - self._shown, 0),
        }

    def act(self, message: Message) -> str:
        """Does what a message asks for; returns a sentence for the person.

        Raises:
            RunFolderError: the label could not be stored.
        """
        if message["do"] == "open":
            self._cell, self._shown = (message["row"], message["column"]), PAGE
            there = (self._places() == self._cell).all(axis=1)
            self._listed = self.texts.loc[there, "chunk_id"].tolist()
            return f"{len(self._listed)} {'text' if len(self._listed) == 1 else 'texts'}."
        if message["do"] == "more":
            self._shown += PAGE
            return ""
        if self._store is None:
            return "These labels can only be read."
        if message["do"] == "undo":
            return self._undo(self._store)
        label = self.classes[message["class"]]
        self._store.set_human_label(message["chunk_id"], label, note=self._note)
        return f"Stored: {label}. The next iteration learns from it."

    def _undo(self, store: LabelStore) -> str:
        chunk_id = store.undo_human_label(set(self.texts["chunk_id"]), note=self._note)
        if chunk_id is None:
            return "There is nothing to undo."
        before = self.texts.set_index("chunk_id")["label"][chunk_id]
        return f"Taken back: the text is {self._given().get(chunk_id, before)} again."

    def _given(self) -> dict[str, str]:
        return {} if self._store is None else _given(self._store, self.classes)

    def _places(self) -> np.ndarray[Any, Any]:
        """Row and column of each text."""
        given, place = self._given(), {name: i for i, name in enumerate(self.classes)}
        rows = self.texts[["chunk_id", "label", "predicted"]].itertuples(index=False, name=None)
        both = [(place[given.get(chunk_id, label)], place[predicted]) for chunk_id, label, predicted in rows]
        return np.array(both, dtype=int).reshape(-1, 2)


def open_audit(config: Config, run: RunFolder, store: LabelStore, *, n: int = 40) -> Queue:
    """The random audit: test texts as they were drawn, for a person to label without knowing what the LLM said.

    A test set that grows later only adds texts behind them, so what was checked still counts.
    """
    return Queue(
        read_test_labels(run).head(n),
        title="Random audit of the test labels",
        classes=config.classification.classes,
        store=store,
        note="audit",
        blind=True,
        summary=lambda: tell_audit(config, run, store),
    )


def tell_audit(config: Config, run: RunFolder, store: LabelStore) -> str:
    """How often the LLM's label of a test text is the person's, with its interval, or why that is not known."""
    test = read_test_labels(run).set_index("chunk_id")["label"]
    people = random_labels(test.index.tolist(), config=config, run=run, store=store)
    llm = [test[chunk_id] for chunk_id in people]
    if not people or pd.isna(llm).all():
        return (
            "Nobody has checked the first text of the random draw yet, so how good the LLM's labels are is not known."
        )
    found = compare_raters(llm, list(people.values()), classes=config.classification.classes)
    pairs = "; ".join(f"{right} called {wrong} {texts} times" for wrong, right, texts in found.mixed_up[:3])
    return (
        f"The {config.training.test_labeler} LLM's label is the person's on {found.same} of {found.n} test texts drawn "
        f"at random ({found.share:.1%}, 95 % interval {found.low:.1%} to {found.high:.1%})."
        + (f" Most often wrong: {pairs}." if pairs else "")
        + (f" {found.left_out} checked texts have no label of the LLM and are left out." if found.left_out else "")
    )


def open_queue(examined: pd.DataFrame, *, config: Config, store: LabelStore, n: int = 50) -> Queue:
    """The training texts most worth a person's minute: likely label errors, what the two LLMs differ on, least sure.

    Those that a person has decided before come first, in their order, so that one can go back to them; the queue opens
    at the first of the others, of which there are at most n.

    Args:
        examined: all labels, with what `Rounds.examine_labels` adds. Those of the validation set are left out: to
            correct what one sees to be wrong there would flatter the classifiers that it compares.
    """
    mine = {chunk_id: place for place, chunk_id in enumerate(store.human_labels())}
    texts = examined[examined["split"] == "train"]
    decided = texts[texts["chunk_id"].isin(mine)].sort_values("chunk_id", key=lambda ids: ids.map(mine))
    rest = texts[~texts["chunk_id"].isin(mine) & (texts["source"] != "human")]
    differs = (rest["source"] == "large") & rest["small_label"].notna() & (rest["small_label"] != rest["label"])
    rank = np.select([rest["suggested"].notna(), differs], [0, 1], default=2)
    rest = rest.assign(rank=rank, why=np.array([LIKELY_ERROR, DISAGREEMENT, LEAST_SURE], dtype=object)[rank])
    rest = rest.sort_values(["rank", "doubt"], ascending=[True, False], kind="stable").head(n)
    return Queue(
        pd.concat([decided.assign(why="decided before"), rest], ignore_index=True),
        title="Labels worth a person's minute",
        classes=config.classification.classes,
        store=store,
        note="review",
    )


def matrix_of_train_set(examined: pd.DataFrame, *, config: Config, store: LabelStore) -> Matrix:
    """The train set's labels beside those of a classifier that never saw them; texts can be moved.

    Args:
        examined: as for `open_queue`.
    """
    return Matrix(
        examined[examined["split"] == "train"].sort_values("doubt", ascending=False, kind="stable"),
        title="Train set, by cross-validation",
        rows="label trained on",
        columns="cross-validated classifier's label",
        classes=config.classification.classes,
        store=store,
        note="matrix",
    )


def matrix_of_test_set(predicted: pd.DataFrame, *, config: Config) -> Matrix:
    """The test set's labels beside the classifier's, to read only: mending what looks wrong would inflate the claim.

    Args:
        predicted: the test set as `Rounds.test_predictions` gives it.
    """
    return Matrix(
        predicted.sort_values("probability", ascending=False, kind="stable"),
        title="Test set (read only)",
        rows=f"{config.training.test_labeler} LLM's label",
        columns="classifier's label",
        classes=config.classification.classes,
    )


def details(row: Row) -> list[list[str]]:
    """What is known of a text besides its words, as pairs of who and what."""

    def sure(name: str) -> str:
        return "" if pd.isna(row.get(name)) else f" ({100 * row[name]:.0f} %)"

    told: list[tuple[str, Any]] = [("why", row.get("why"))]
    if row["source"] == "human":
        told.append(("label by a person", row["label"]))
    else:
        told.append((f"{row['source']} LLM", None if pd.isna(row["label"]) else f"{row['label']}{sure('confidence')}"))
        told.append(("its reply", row.get("reply")))
    if row.get("small_label") != row["label"]:
        told.append(("small LLM", row.get("small_label")))
    if not pd.isna(row.get("predicted")):
        told.append(("classifier", f"{row['predicted']}{sure('probability')}"))
    return [[who, str(what)] for who, what in told if not pd.isna(what)]


def _given(store: LabelStore, classes: Sequence[str]) -> dict[str, str]:
    """People's labels; one of a class that is no more does not count."""
    return {chunk_id: label for chunk_id, label in store.human_labels().items() if label in classes}
