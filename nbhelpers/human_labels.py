"""Labels that people own or gave: from a .csv file (`path.human_labels`) and from the notebooks' widgets.

They outrank every LLM's in training; those of test texts change no test label, and say how right the LLM's are.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.audit import Support, TruthEstimate, support_claim, truth_interval
from nbhelpers.config import Config
from nbhelpers.encodings import decode, listed
from nbhelpers.errors import ConfigError, DocumentError
from nbhelpers.label_store import LabelStore
from nbhelpers.run_folder import RunFolder


@dataclass(frozen=True)
class HumanLabels:
    """`labels` by chunk id; the ids whose texts were drawn at random as their giver says; what could not be used."""

    labels: dict[str, str]
    declared: set[str]
    problems: list[str]


def human_labels(config: Config, run: RunFolder, store: LabelStore) -> HumanLabels:
    """All labels by people; one given in a notebook outranks the file's, unless its class is no more.

    Raises:
        ConfigError: as `read_human_labels`.
    """
    file, classes = config.path.human_labels, config.classification.classes
    given = {chunk_id: label for chunk_id, label in store.human_labels().items() if label in classes}
    if file is None:
        return HumanLabels(given, set(), [])
    table, problems = read_human_labels(
        file,
        chunks=run.read_table(run.chunks, made_by="01_ingest"),
        occurrences=run.read_table(run.occurrences, made_by="01_ingest"),
        classes=classes,
    )
    labels = dict(zip(table["chunk_id"], table["label"], strict=True))
    return HumanLabels({**labels, **given}, set(table.loc[table["drawn"] == "random", "chunk_id"]), problems)


def accuracy_against_people(
    predicted: Sequence[str], test: pd.DataFrame, *, config: Config, run: RunFolder, store: LabelStore
) -> TruthEstimate | None:
    """A classifier's accuracy against people's labels of test texts drawn at random; None where there are none.

    Args:
        predicted: its class of each test text.
        test: the test set with the LLM's labels, in the same order.
        config, run, store: where people's labels are.
    """
    ids = test["chunk_id"].tolist()
    people = random_labels(ids, config=config, run=run, store=store)
    if not people:
        return None
    place = {chunk_id: i for i, chunk_id in enumerate(ids)}
    return truth_interval(
        [said == label for said, label in zip(predicted, test["label"], strict=True)],
        [place[chunk_id] for chunk_id in people],
        [predicted[place[chunk_id]] == label for chunk_id, label in people.items()],
    )


def random_labels(test_ids: Sequence[str], *, config: Config, run: RunFolder, store: LabelStore) -> dict[str, str]:
    """People's labels of test texts, those only that support a claim about the truth (see `support_claim`).

    Args:
        test_ids: the test set, in the order of its draw.
        config, run, store: where people's labels are.
    """
    people, support = supported(test_ids, config=config, run=run, store=store)
    return {name: people.labels[name] for name in support.claim}


def supported(
    test_ids: Sequence[str], *, config: Config, run: RunFolder, store: LabelStore
) -> tuple[HumanLabels, Support]:
    """All labels by people, and which of them support a claim about the truth; arguments as in `random_labels`."""
    people, test = human_labels(config, run, store), set(test_ids)
    return people, support_claim(test_ids, people.labels, declared=people.declared & test)


def tell_support(people: HumanLabels, support: Support) -> list[str]:
    """How many labels by people say how accurate the classifier is, and why the others do not; nothing without any."""
    sentences = [f"path.human_labels: {problem}" for problem in people.problems]
    if people.labels:
        parts = [f"{len(support.claim)} of test texts drawn at random, which say how right the LLM and classifier are"]
        if support.after_gap:
            parts.append(
                f"{len(support.after_gap)} of test texts picked or after one left out, which say nothing of it"
            )
        if support.chosen:
            parts.append(f"{len(support.chosen)} of other texts, which say nothing of it and may be trained on")
        sentences.append(f"Labels by people: {'; '.join(parts)}.")
    return sentences


def read_human_labels(
    path: str | Path, *, chunks: pd.DataFrame, occurrences: pd.DataFrame, classes: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Labels that people own: a .csv with label and one of chunk_id, text, or source and position.

    An optional column drawn says how each text was come by: random, or chosen (the default).

    Args:
        chunks: with chunk_id and text; a text matches but for white space.
        occurrences: with chunk_id, source and position, a row for every place where a text stands.
        classes: the class names.
    Returns:
        chunk_id, label and drawn, one row a chunk; and a sentence for each kind of row that could not be used, with
        its row numbers as a spreadsheet shows them.
    Raises:
        ConfigError: the file cannot be read, lacks columns, or has no usable row.
    """
    table, keys = _read_columns(path)
    problems: list[str] = []
    if "drawn" not in table:
        table["drawn"] = "chosen"
    table["drawn"] = table["drawn"].fillna("chosen").str.lower()
    table["key"] = _keys(table, keys)

    def leave_out(bad: pd.Series[bool], why: str, *, shown: str | None = None) -> None:
        nonlocal table
        if bad.any():
            values = "" if shown is None else f": {', '.join(map(repr, table.loc[bad, shown].unique()[:5]))}"
            problems.append(f"{listed(table.loc[bad, 'row_number'].tolist(), word='row')} left out, {why}{values}.")
            table = table[~bad]

    leave_out(table["label"].isna(), "without a label")
    leave_out(~table["label"].isin(list(classes)), "the label is not one of the classes", shown="label")
    leave_out(~table["drawn"].isin(["random", "chosen"]), "drawn is neither random nor chosen", shown="drawn")
    places = occurrences if keys == ["source", "position"] else chunks
    known = pd.DataFrame({"id": places["chunk_id"], "key": _keys(places, keys)})
    leave_out(~table["key"].isin(known["key"]), f"no text has this {' and '.join(keys)}", shown="key")
    if "chunk_id" in table:
        table = table.drop(columns="chunk_id")
    table = table.merge(known.rename(columns={"id": "chunk_id"}).drop_duplicates(), on="key")
    leave_out(table.groupby("chunk_id")["label"].transform("nunique") > 1, "two labels for one text", shown="key")
    if table.empty:
        raise ConfigError(f"path.human_labels: no row of {path} can be used. {' '.join(problems) or 'It is empty.'}")
    return table.drop_duplicates("chunk_id")[["chunk_id", "label", "drawn"]].reset_index(drop=True), problems


def check_human_labels(config: Config) -> None:
    """Raises a ConfigError where `path.human_labels` cannot be read or lacks columns."""
    if config.path.human_labels is not None:
        _read_columns(config.path.human_labels)


def read_label_file(path: str | Path, *, key: str, form: str) -> pd.DataFrame:
    """A .csv that a person made, with commas, semicolons or tabs between its columns, in any usual encoding.

    Args:
        key: the config's, which an error names.
        form: the columns that it should have, for an error.
    Returns:
        All values as text without white space around them, missing where there is none; names of columns in lower
        case, where no two differ in that alone; row_number, as a spreadsheet shows it. Rows without any value are
        left out.
    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text, _ = decode(Path(path).read_bytes())
        head = text.partition("\n")[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # fields past the header's, such as after a comma
            # A class may be called "None" or "NA", so only an empty field means that there is no label.
            table = pd.read_csv(
                io.StringIO(text),
                sep=max(",;\t", key=head.count),
                dtype=str,
                index_col=False,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
            )
    except (OSError, ValueError, DocumentError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {path} could not be read ({reason}). Write a .csv: {form}.") from None
    names = table.columns.str.strip()
    table.columns = names.str.lower() if names.str.lower().is_unique else names
    table = table.apply(lambda column: column.str.strip()).replace("", np.nan).assign(row_number=table.index + 2)
    if "position" in table:
        table["position"] = table["position"].str.replace(r"\.0+$", "", regex=True)  # a column of numbers, some missing
    filled: pd.DataFrame = table[table.drop(columns="row_number").notna().any(axis=1)]
    return filled


def _read_columns(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `path.human_labels`, and the columns that say which text each is about."""
    table = read_label_file(path, key="path.human_labels", form="text, label")
    keys = next((k for k in (["chunk_id"], ["text"], ["source", "position"]) if set(k) <= set(table.columns)), None)
    if keys is None or "label" not in table:
        raise ConfigError(
            f"path.human_labels: {path} has the columns {', '.join(table.columns.drop('row_number'))}. "
            "Give label and one of: chunk_id; text; source and position."
        )
    return table, keys


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series[Any]:
    parts = (table[name].astype(str).str.split().str.join(" ") for name in columns)
    return next(parts) if len(columns) == 1 else next(parts) + " at " + next(parts)
