"""The .csv files of labels that people own, `path.human_labels` and `path.truth`: read, and held against the texts.

They are taken as spreadsheets and other people's programs write them: with commas, semicolons or tabs, in any usual
encoding, with blank rows. What a label is good for is not decided here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.config import Config
from nbhelpers.encodings import decode, listed
from nbhelpers.errors import ConfigError, DocumentError
from nbhelpers.rows import dialect
from nbhelpers.run_folder import RunFolder

PLACE = ["source", "position"]
NUMBER = "row number"  # as a spreadsheet shows it


def check_label_files(config: Config) -> None:
    """That both files, where they are given, can be read.

    Raises:
        ConfigError: as `read_truth`; or `path.human_labels` cannot be read or lacks columns.
    """
    read_truth(config)
    if config.path.human_labels is not None:
        _read_with_key(config.path.human_labels)


def check_labelled_texts(config: Config, run: RunFolder) -> None:
    """The same, and that they label texts of this run, if these are known.

    Raises:
        ConfigError: as `check_label_files`; or none of a file's rows is about one of the texts.
    """
    check_label_files(config)
    if not run.occurrences.exists():
        return
    truth = read_truth(config)
    if truth is not None:
        without_text(truth, config, run)
    if config.path.human_labels is not None:
        read_human_labels(config.path.human_labels, classes=config.classification.classes, run=run)


def read_truth(config: Config) -> pd.DataFrame | None:
    """The labels of `path.truth`: source, position, true_label; None where it is not given.

    Raises:
        ConfigError: the file cannot be read, lacks columns, holds no label or names unknown classes.
    """
    file = config.path.truth
    if file is None:
        return None
    columns = [*PLACE, "label"]
    truth = _read(file, key="path.truth", form=", ".join(columns))
    missing = set(columns) - set(truth.columns)
    if missing:
        there = ", ".join(truth.columns.drop(NUMBER))
        raise ConfigError(f"path.truth: {file} has no column {', '.join(sorted(missing))}: it has {there}.")
    truth = truth[columns].dropna().rename(columns={"label": "true_label"})
    unknown = sorted(set(truth["true_label"]) - set(config.classification.classes))
    if unknown:
        raise ConfigError(f"path.truth: {file} holds labels that are not classes: {', '.join(map(repr, unknown))}.")
    unread = truth.loc[~truth["position"].str.fullmatch(r"\d+"), "position"]
    if len(unread):
        raise ConfigError(f"path.truth: {file} holds positions that are no numbers, such as {unread.iloc[0]!r}.")
    if truth.empty:
        raise ConfigError(f"path.truth: no row of {file} has source, position and label. Fill it in, or drop the key.")
    return truth.astype({"position": "int64"})


def without_text(truth: pd.DataFrame, config: Config, run: RunFolder) -> pd.DataFrame:
    """The rows of `read_truth` that name none of the run's texts.

    Raises:
        ConfigError: all of them do.
    """
    places = run.read_table(run.occurrences, made_by="01_ingest")[PLACE].drop_duplicates()
    both = truth.merge(places, on=PLACE, how="left", indicator=True)
    unknown = both[both["_merge"] == "left_only"]
    if len(unknown) == len(truth):
        raise ConfigError(f"path.truth: no source and position in {config.path.truth} is one of the input texts.")
    return unknown


def read_human_labels(path: Path, *, classes: Sequence[str], run: RunFolder) -> tuple[pd.DataFrame, list[str]]:
    """Labels that people own: a .csv with label and one of chunk_id, text, or source and position.

    A text matches but for white space. An optional column drawn says how it was come by: random, or chosen (the
    default).

    Args:
        path: the file.
        classes: the class names.
        run: holds the texts, and where each stands.
    Returns:
        chunk_id, label and drawn, one row a chunk; and a sentence for each kind of row that could not be used, with
        its row numbers as a spreadsheet shows them.
    Raises:
        ConfigError: the file cannot be read, lacks columns, or has no usable row.
    """
    table, keys = _read_with_key(path)
    problems: list[str] = []
    if "drawn" not in table:
        table["drawn"] = "chosen"
    table["drawn"] = table["drawn"].fillna("chosen").str.lower()
    table["key"] = _keys(table, keys)

    def leave_out(bad: pd.Series[bool], why: str, *, shown: str | None = None) -> None:
        nonlocal table
        if bad.any():
            values = "" if shown is None else f": {', '.join(map(repr, table.loc[bad, shown].unique()[:5]))}"
            problems.append(f"{listed(table.loc[bad, NUMBER].tolist(), word='row')} left out, {why}{values}.")
            table = table[~bad]

    leave_out(table["label"].isna(), "without a label")
    leave_out(~table["label"].isin(list(classes)), "the label is not one of the classes", shown="label")
    leave_out(~table["drawn"].isin(["random", "chosen"]), "drawn is neither random nor chosen", shown="drawn")
    places = run.read_table(run.occurrences if keys == PLACE else run.chunks, made_by="01_ingest")
    known = pd.DataFrame({"id": places["chunk_id"], "key": _keys(places, keys)})
    leave_out(~table["key"].isin(known["key"]), f"no text has this {' and '.join(keys)}", shown="key")
    if "chunk_id" in table:
        table = table.drop(columns="chunk_id")
    table = table.merge(known.rename(columns={"id": "chunk_id"}).drop_duplicates(), on="key")
    leave_out(table.groupby("chunk_id")["label"].transform("nunique") > 1, "two labels for one text", shown="key")
    if table.empty:
        raise ConfigError(f"path.human_labels: no row of {path} can be used. {' '.join(problems) or 'It is empty.'}")
    return table.drop_duplicates("chunk_id")[["chunk_id", "label", "drawn"]].reset_index(drop=True), problems


def _read_with_key(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `path.human_labels`, and the columns that say which text each is about."""
    table = _read(path, key="path.human_labels", form="text, label")
    keys = next((k for k in (["chunk_id"], ["text"], PLACE) if set(k) <= set(table.columns)), None)
    if keys is None or "label" not in table:
        raise ConfigError(
            f"path.human_labels: {path} has the columns {', '.join(table.columns.drop(NUMBER))}. "
            "Give label and one of: chunk_id; text; source and position."
        )
    return table, keys


def _read(path: Path, *, key: str, form: str) -> pd.DataFrame:
    """A file's rows, but for blank ones, and the NUMBER of each.

    All values are text without white space around it, missing where there is none. Names of columns are in lower case,
    unless two differ in that alone. `key` is the config's, `form` the columns that it should have, for an error.
    """
    try:
        text, _ = decode(path.read_bytes())
        delimiter, _ = dialect(text[:100_000], "label", default=",")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # fields past the header's, such as after a comma
            # A class may be called "None" or "NA", so only an empty field means that there is no label.
            table = pd.read_csv(
                io.StringIO(text),
                sep=delimiter,
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
    table = table.apply(lambda column: column.str.strip()).replace("", np.nan).assign(**{NUMBER: table.index + 2})
    if "position" in table:
        table["position"] = table["position"].str.replace(r"\.0+$", "", regex=True)  # a column of numbers, some missing
    filled: pd.DataFrame = table[table.drop(columns=NUMBER).notna().any(axis=1)]
    return filled


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series[Any]:
    parts = (table[name].astype(str).str.split().str.join(" ") for name in columns)
    return next(parts) if len(columns) == 1 else next(parts) + " at " + next(parts)
