"""A folder of files -> documents, chunks and occurrences.

Every file ends as a row of the documents table, with the reason where it could not be read; nothing that one file
holds stops the others. Equal texts are one chunk with a count; where each of them stands is kept in the occurrences,
so that every input text gets its prediction.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nbhelpers.chunking import Chunk, chunk_id, cut, near_duplicate_groups, truncate
from nbhelpers.config import Config, repository_root
from nbhelpers.documents import list_files, read_document
from nbhelpers.encoder import check_architecture, token_lengths, token_limit
from nbhelpers.errors import ConfigError, DocumentError
from nbhelpers.lock import one_step
from nbhelpers.models import find_model
from nbhelpers.progress import progress_bar
from nbhelpers.run_folder import RunFolder, write_table
from nbhelpers.selection import random_order

NAMED = 3  # of the files that were not read, in a note
OCCURRENCE_COLUMNS = ["chunk_id", "source", "position", "start", "end", "document", "metadata"]


@dataclass(frozen=True)
class Ingested:
    """What 01 made; the three tables are also in the run folder."""

    documents: pd.DataFrame
    chunks: pd.DataFrame
    occurrences: pd.DataFrame
    token_limit: int

    @property
    def counts(self) -> dict[str, int]:
        """The `ingest` part of report.json, and how many chunks each limit cuts."""
        return count_ingest(self.documents, self.chunks) | {
            "truncated": int(self.chunks["truncated"].sum()),
            "over_token_limit": int((self.chunks["tokens"] > self.token_limit).sum()),
        }


def ingest(config: Config, run: RunFolder) -> Ingested:
    """Reads every file below path.input_dir and writes documents, chunks and occurrences.

    Raises:
        ConfigError: the folder is missing or empty, or no file in it could be read.
        ModelNotFoundError: training.model_path, whose tokenizer counts the tokens, is not to be had.
        ClassifierError: it is no text encoder.
        RunFolderError: another run works on the folder.
    """
    base_model = find_model(config.training.model_path)
    check_architecture(base_model)
    files = input_files(config)
    with one_step(run.root):
        return _ingest(files, base_model, config, run)


def tell_unread(documents: pd.DataFrame) -> list[str]:
    """One sentence on the files that were skipped, or read in part only, with the first reasons; none where all were.

    Args:
        documents: source, status and reason of every file.
    """
    unread = documents[documents["status"] != "read"].sort_values("status", ascending=False, kind="stable")
    if unread.empty:
        return []
    counts = unread["status"].value_counts()
    told = [f"{counts[status]} {status}" for status in ("skipped", "partly read") if status in counts]
    places = unread[["source", "reason"]].head(NAMED).itertuples(index=False)
    named = [" ".join(f"{source} ({reason})".split()) for source, reason in places]
    more = f" and {len(unread) - NAMED} more, see documents.parquet" if len(unread) > NAMED else ""
    return [f"Of {len(documents)} files, {' and '.join(told)}: {'; '.join(named)}{more}."]


def count_ingest(documents: pd.DataFrame, chunks: pd.DataFrame) -> dict[str, int]:
    """Numbers of documents, chunks, further copies of a text, and files that could not be read."""
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "duplicates": int(chunks["count"].sum()) - len(chunks),
        "skipped": int((documents["status"] == "skipped").sum()),
    }


def input_files(config: Config) -> list[Path]:
    """The files to read, left out what is in the output folder, and rules and prompts that the config names.

    Raises:
        ConfigError: the folder is missing or empty, or is the output folder too.
    """
    check_output(config)
    folder, output = config.path.input_dir, config.path.output_dir.resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"path.input_dir: {folder} is not a folder. Write the path of the folder with your texts; "
            f"a relative one starts at {repository_root()}."
        )
    given = [config.classification.rules_file, config.path.prompts, config.path.default_prompts]
    others = {place.resolve() for place in given if place is not None}
    if output not in folder.resolve().parents:  # else what it holds is not all output
        others.add(output)
    others -= {folder.resolve(), *folder.resolve().parents}
    files = [path for path in list_files(folder) if others.isdisjoint([path.resolve(), *path.resolve().parents])]
    if not files:
        raise ConfigError(
            f"path.input_dir: {folder} holds no files. Put .txt, .md, .pdf, .docx, .jsonl, .csv or .html files in it."
        )
    return files


def check_output(config: Config) -> None:
    """Raises a ConfigError, before anything is written, where the output would come among the texts."""
    output = config.path.output_dir.resolve()
    if output == config.path.input_dir.resolve():
        raise ConfigError(f"path.output_dir: {output} is path.input_dir too. Write another folder for the output.")


def _ingest(files: list[Path], base_model: Path, config: Config, run: RunFolder) -> Ingested:
    documents: list[dict[str, Any]] = []
    texts: dict[str, dict[str, Any]] = {}
    occurrences: list[tuple[Any, ...]] = []
    bar = progress_bar(len(files), desc="reading", unit="file")
    for path in files:
        row = _describe(path, config.path.input_dir)
        try:
            for position, chunk, document, metadata in _read(path, row, config):
                key, values = chunk_id(chunk.text), json.dumps(metadata, ensure_ascii=False, default=str)
                place = (row["source"], position, chunk.start, chunk.end, document)
                names = ("source", "position", "start", "end", "document")
                known = texts.setdefault(
                    key,
                    {
                        "chunk_id": key,
                        "text": chunk.text,
                        "count": 0,
                        "truncated": False,
                        **dict(zip(names, place, strict=True)),
                    },
                )
                known["count"] += 1
                known["truncated"] |= chunk.truncated
                occurrences.append((key, *place, values))
                row["chunks"] += 1
        except Exception as error:  # what nobody thought of, too: the other files are read all the same
            unexpected = "" if isinstance(error, DocumentError) else f"unexpected {type(error).__name__}: "
            row["reason"] = _storable(f"{unexpected}{error}")
            row["status"] = "partly read" if row["chunks"] else "skipped"
        documents.append(row)
        bar.update(1)
    bar.close()

    documents_table = pd.DataFrame(documents)
    write_table(run.documents, documents_table)
    if not texts:
        reasons = documents_table.groupby("reason").size().sort_values(ascending=False)
        raise ConfigError(
            f"None of the {len(files)} files in {config.path.input_dir} could be read "
            f"({reasons.iloc[0]} of them: {reasons.index[0]}). Each file's reason is in {run.documents}."
        )
    chunks = _subset(pd.DataFrame(texts.values()), config, run)
    places = pd.DataFrame(occurrences, columns=OCCURRENCE_COLUMNS)
    places = places[places["chunk_id"].isin(set(chunks["chunk_id"]))].reset_index(drop=True)
    chunks["near_group"] = near_duplicate_groups(chunks["text"].tolist())
    chunks["tokens"] = token_lengths(chunks["text"].tolist(), base_model)
    write_table(run.chunks, chunks)
    write_table(run.occurrences, places)
    return Ingested(documents_table, chunks, places, token_limit(base_model))


def _describe(path: Path, folder: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    return {
        "source": _storable(path.relative_to(folder).as_posix()),
        "format": _storable(path.suffix.lower().lstrip(".")),
        "bytes": size,
        "status": "read",
        "reason": "",
        "encoding": None,
        "texts": 0,
        "characters": 0,
        "chunks": 0,
    }


def _storable(text: str) -> str:
    """Writes out the bytes of a file name that is not UTF-8, as from an old archive: no table could hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read(path: Path, row: dict[str, Any], config: Config) -> Iterator[tuple[int, Chunk, str, dict[str, Any]]]:
    """The chunks of one file, each with its position, document and metadata; fills in the file's `row` on the way.

    A position is the number of a file's row, or of its chunk.
    """
    size, truncation = config.system.chunk_size, config.training.truncation_type
    document = read_document(path, text_column=config.path.text_column)
    row["encoding"] = document.encoding
    shortened = 0
    for passage in document.texts:
        row["texts"] += 1
        row["characters"] += len(passage.text)
        if document.is_rows:
            text = passage.text.strip()
            start = passage.text.index(text)
            short = truncate(text, max_chars=size, truncation=truncation)
            chunk = Chunk(short, start, start + len(text), len(short) < len(text))
            yield passage.number, chunk, f"{row['source']}#{passage.number}", passage.metadata
        else:
            for position, chunk in enumerate(cut(passage.text, max_chars=size, truncation=truncation)):
                shortened += chunk.truncated
                yield position, chunk, row["source"], passage.metadata
    warnings = list(document.warnings)
    if shortened:
        warnings.append(f"{shortened} too long for system.chunk_size without a sentence or line end, and shortened")
    if warnings:
        row["status"], row["reason"] = "partly read", "; ".join(warnings)


def _subset(chunks: pd.DataFrame, config: Config, run: RunFolder) -> pd.DataFrame:
    """A random part; a test set that was drawn stays in it, since files that are added must not redraw that."""
    if not config.system.use_subset or len(chunks) <= config.system.subset_size:
        return chunks
    before = run.read_json(run.test_set, made_by="03_test_labels") if run.test_set.exists() else {}
    drawn = set(before.get("chunk_ids", []))
    order = random_order(chunks["chunk_id"].tolist(), config.system.seed)
    order.sort(key=lambda chunk_id: chunk_id not in drawn)
    kept = set(order[: config.system.subset_size])
    return chunks[chunks["chunk_id"].isin(kept)].reset_index(drop=True)
