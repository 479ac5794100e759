"""Files of rows (.jsonl, .csv and their like) -> a text and the other values for each row, read as a stream.

A row that holds no usable text costs itself only, and is counted under its reason. It does not read a JSON list, a
spreadsheet, or JSON over several lines, and guesses neither the text column nor what a value means: CSV values stay
text. Sources: json and csv of the standard library; RFC 4180.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from nbhelpers.encodings import clean, find_encoding, listed
from nbhelpers.errors import DocumentError

JSONL = (".jsonl", ".ndjson")
CSV = (".csv", ".tsv")
SAMPLE_BYTES = 1_000_000  # what the encoding is recognised from
LIKE_ROWS = 5  # lines within a row that all have the header's number of columns: rows of their own
ENDLESS = 1000  # lines of a row

Rows = Iterator[tuple[int, str, dict[str, Any]]]


def read_rows(path: Path, *, text_column: str, warnings: list[str]) -> tuple[str, Rows]:
    """Opens a file of rows.

    Args:
        path: the file; its suffix is one of JSONL or CSV.
        text_column: the key or the column that holds the text.
        warnings: is given a sentence for each kind of row that was left out, once all rows are read.
    Returns:
        The encoding, and for each usable row its number, its text and its other values. Rows are numbered from 0, those
        that are left out, too; only blank lines are not.
    Raises:
        DocumentError: not text; while iterating also: no such column, or no usable row.
    """
    encoding = _find_encoding(path)
    rows = _jsonl_rows if path.suffix.lower() in JSONL else _csv_rows
    return encoding, rows(path, encoding, text_column, warnings)


def dialect(head: str, wanted: str, *, default: str) -> tuple[str, int]:
    """How the csv module reads a file that begins so: delimiter and quoting.

    The delimiter is the one under which the header holds the wanted column, else the most columns. One column has none
    at all, so a comma in its texts is a comma, and `default` something that no text contains.
    """
    head = re.sub(r"\Asep=.\r?\n", "", head)
    best, widest = default, (False, 1)
    for delimiter in ",\t;|":
        header = [name.strip() for name in next(csv.reader(head.splitlines(keepends=True), delimiter=delimiter), [])]
        known = wanted.strip().casefold() in map(str.casefold, header)
        if len(header) > 1 and (known, len(header)) > widest:
            best, widest = delimiter, (known, len(header))
    lines = [line for line in head.splitlines()[:-1] if line]
    even = len({line.count("\t") for line in lines}) == 1
    if best == "\t" and even and any(re.search(r'(^|\t)"[^"\t]*(\t|$)', line) for line in lines):
        return best, csv.QUOTE_NONE  # tab-separated text as it comes: a quote mark that opens a text is part of it
    return best, csv.QUOTE_MINIMAL


def _find_encoding(path: Path) -> str:
    """By the first megabyte with something else than ASCII in it."""
    with path.open("rb") as file:
        first = data = file.read(SAMPLE_BYTES)
        while data.isascii() and b"\0" not in data and (more := file.read(SAMPLE_BYTES)):
            # From the line end on, so that no character is cut in front.
            data = data[data.rfind(b"\n") + 1 :] + more if not more.isascii() else more
        return find_encoding(first if data.isascii() else data, whole=not file.read(1))


def _open(path: Path, encoding: str, *, newline: str | None) -> Any:
    # A byte that does not decode must cost its line only: it becomes a lone surrogate, which no text has.
    errors = "replace" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return path.open(encoding=encoding, errors=errors, newline=newline)


def _undecoded(values: Iterable[str]) -> bool:
    return any(re.search("[\udc80-\udcff]", value) for value in values)


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _clean_value(item) for key, item in value.items()}
    return [_clean_value(item) for item in value] if isinstance(value, list) else value


def _left_out(problems: dict[str, list[int]]) -> list[str]:
    return [f"{len(lines)} left out, {reason}: {listed(lines, word='line')}" for reason, lines in problems.items()]


def _jsonl_rows(path: Path, encoding: str, text_column: str, warnings: list[str]) -> Rows:
    problems: dict[str, list[int]] = {}
    keys: Counter[str] = Counter()
    used, row_number = 0, -1
    first = ""
    with _open(path, encoding, newline=None) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix("\ufeff").strip()
            if not line:
                continue
            row_number += 1
            first = first or line[:1]
            row, problem = _json_object(line)
            text = row.pop(_named(row, text_column) or text_column, None)
            if isinstance(text, str) and text.strip():
                used += 1
                yield row_number, text, row
                continue
            keys.update(row.keys())
            if not problem:
                fault = "without {}" if text is None else "{} is empty" if isinstance(text, str) else "{} is not a text"
                problem = fault.format(f'"{text_column}"')
            problems.setdefault(problem, []).append(number)
    if used == 0:
        if keys:
            named = ", ".join(f'"{key}"' for key, _ in keys.most_common(10))
            raise DocumentError(f'no line has a text under "{text_column}": there are {named}; set path.text_column')
        if first == "[":
            raise DocumentError("one JSON list, not a line for each object: save it as .jsonl, one object a line")
        raise DocumentError(f"no usable line: {'; '.join(problems) or 'only empty lines'}; each must be a JSON object")
    warnings += _left_out(problems)


def _json_object(line: str) -> tuple[dict[str, Any], str]:
    """The object of a line, its texts cleaned, or an empty one and why."""
    if _undecoded([line]):
        return {}, "not decodable"
    try:
        # NaN is no JSON, and no value either.
        row = _clean_value(json.loads(line.replace("\0", ""), parse_constant=lambda _: None))
    except RecursionError:
        return {}, "nested too deeply"
    except ValueError:
        row = None
    return (row, "") if isinstance(row, dict) else ({}, "not a JSON object")


def _csv_rows(path: Path, encoding: str, text_column: str, warnings: list[str]) -> Rows:
    csv.field_size_limit(100_000_000)
    problems: dict[str, list[int]] = {}
    used, row_number = 0, -1
    with _open(path, encoding, newline="") as file:
        head = file.read(100_000).removeprefix("\ufeff").lstrip("\r\n")
        delimiter, quoting = dialect(head, text_column, default="\t" if path.suffix.lower() == ".tsv" else "\x1f")
        file.seek(0)
        # A second byte order mark too: some programs write two.
        clear = (line.removeprefix("" if place else "\ufeff").replace("\0", "") for place, line in enumerate(file))
        taken: list[str] = []  # the lines of the row that is being read
        lines = _noted(clear, taken)
        if re.match(r"sep=.\r?\n", head):  # Excel's hint, not a row
            next(lines)
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]  # an int in typeshed
        header = [clean(name).strip() for name in next(filter(None, reader), [])]  # after empty lines, if any
        column = _text_column(header, text_column)
        names = [name or f"column_{number}" for number, name in enumerate(header, start=1)]
        while True:
            number = reader.line_num + 1
            taken.clear()
            try:
                row = next(reader, None)
            except csv.Error as error:
                warnings.append(f"reading stopped at line {number}: {error}")
                break
            if row is None:
                break
            if _swallowed(taken, len(header), delimiter, quoting):
                warnings.append(f"the row at line {number} is {len(taken):,} lines long: is a quote not closed?")
            row_number += bool(row)  # a blank line is no row; one of empty fields is
            while len(row) > len(header) and not row[-1].strip():
                row.pop()
            if not any(map(str.strip, row)):
                continue
            text = clean(row[column]) if column < len(row) else ""
            if _undecoded(row):
                problems.setdefault("not decodable", []).append(number)
            elif len(row) > len(header):
                problems.setdefault(f"more than the header's {len(header)} columns", []).append(number)
            elif not text.strip():
                problems.setdefault(f'"{header[column]}" is empty', []).append(number)
            else:
                used += 1
                values = zip(names, row, strict=False)
                yield row_number, text, {name: clean(value) for name, value in values if name != names[column]}
    if used == 0:
        raise DocumentError(f"no usable row: {'; '.join([*problems, *warnings]) or 'only a header'}")
    warnings += _left_out(problems)


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _swallowed(lines: list[str], columns: int, delimiter: str, quoting: int) -> bool:
    """Whether a row of these lines has taken in other rows: it ends in a quote, or looks like many rows, or is endless.

    Example: with two columns, `1,"a`, `2,b`, `3,c` and no more.
    """
    if len(lines) < 2:
        return False
    try:
        list(csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True))  # type: ignore[arg-type]
    except csv.Error as error:
        if "end of data" in str(error):
            return True
    inner = [line.count(delimiter) for line in lines[1:-1]]
    return len(lines) > ENDLESS or (len(inner) >= LIKE_ROWS and set(inner) == {columns - 1} and columns > 1)


def _named(names: Collection[str], wanted: str) -> str | None:
    """The wanted name, or the only one that differs from it in case alone."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.casefold() == wanted.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _text_column(header: list[str], text_column: str) -> int:
    name = _named(header, text_column)
    if name is not None:
        return header.index(name)
    named = ", ".join(f'"{name}"' for name in header[:10] if name) or "none"
    raise DocumentError(f'no column "{text_column}": the columns are {named}; set path.text_column')
