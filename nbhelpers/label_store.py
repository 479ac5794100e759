"""Every LLM answer, once: an SQLite file, so that nothing is paid for twice and a killed run loses nothing.

An answer is kept under a hash of what determines it (text, prompt with its rules, model, parameters), and only once it
is one: failed calls are kept beside, with their reason and cost, and never served. No answer is ever overwritten. The
file also holds labels that people gave and the order of the texts chosen for training. It asks no LLM and judges no
reply.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nbhelpers.errors import RunFolderError
from nbhelpers.prompt_files import Message

if TYPE_CHECKING:
    import pandas as pd

    from nbhelpers.completions import Reply

SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (prompt_id TEXT PRIMARY KEY, messages TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, chunk_id TEXT, prompt_id TEXT NOT NULL REFERENCES prompts, model TEXT NOT NULL,
    size TEXT NOT NULL, kind TEXT NOT NULL, label TEXT, scores TEXT, confidence REAL, reply TEXT,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    call INTEGER PRIMARY KEY, key TEXT NOT NULL, chunk_id TEXT, model TEXT NOT NULL, size TEXT NOT NULL,
    kind TEXT NOT NULL, ok INTEGER NOT NULL, reason TEXT NOT NULL, reply TEXT,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS human_labels (
    chunk_id TEXT PRIMARY KEY, label TEXT NOT NULL, note TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replaced_labels (
    step INTEGER PRIMARY KEY, chunk_id TEXT NOT NULL, label TEXT, note TEXT, created TEXT);
CREATE TABLE IF NOT EXISTS selected (position INTEGER PRIMARY KEY, chunk_id TEXT NOT NULL UNIQUE, why TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sent_on (chunk_id TEXT PRIMARY KEY, labels INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS in_flight (key TEXT PRIMARY KEY, dollars REAL NOT NULL);
CREATE TABLE IF NOT EXISTS findings (name TEXT PRIMARY KEY, value TEXT NOT NULL)
"""
_KEYS_PER_QUERY = 500
_BUSY_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """An answer as it was stored.

    `kind` is "label", "sample" (a further answer to the same question), "rules" or "check" (the one word by which an
    LLM is tried); `scores` are a local model's, or the logarithms of the classes' probabilities, in the classes' order.
    """

    key: str
    chunk_id: str | None
    prompt_id: str
    model: str
    size: str
    kind: str
    label: str | None
    scores: list[float] | None
    confidence: float | None
    reply: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    created: str


def answer_key(*, text: str, prompt: Sequence[Message], model: str, mode: str, parameters: Mapping[str, Any]) -> str:
    """The name an answer is stored under: a hash of all that determines it.

    Args:
        text: the text asked about; "" where there is none.
        prompt: the messages as sent, but with the text's place left open.
        model: its name. The endpoint's address and the API key do not count: the same model answers the same.
        mode: "api" or "local".
        parameters: temperature and the like.
    """
    return _digest([text, [[turn["role"], turn["content"]] for turn in prompt], model, mode, dict(parameters)])


class LabelStore:
    """The label store in the file `path`, made if it is not there; usable from several threads.

    Raises:
        RunFolderError: the file is damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._known: set[str] = set()  # answers that came, or were counted as cached, since it was opened
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: transactions are begun and ended by _transaction alone.
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise RunFolderError(f"{self.path} could not be opened ({error}). Check path.output_dir.") from None
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def get_answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key."""
        found: dict[str, Answer] = {}
        for row in self._rows_of(keys, ", ".join(Answer.__dataclass_fields__)):
            values = dict(zip(Answer.__dataclass_fields__, row, strict=True))
            values["scores"] = None if values["scores"] is None else json.loads(values["scores"])
            found[row[0]] = Answer(**values)
        return found

    def answered(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that there is an answer to."""
        return {row[0] for row in self._rows_of(keys, "key")}

    def put_answer(
        self,
        *,
        key: str,
        kind: str,
        size: str,
        model: str,
        prompt: Sequence[Message],
        chunk_id: str | None = None,
        label: str | None = None,
        scores: Sequence[float] | None = None,
        confidence: float | None = None,
        reply: str | None = None,
        usage: "Reply | None" = None,
    ) -> None:
        """Stores an answer and the call that brought it, both or neither; it is safe once this returns.

        An answer that is already there under `key` stays as it is; the call is counted all the same.

        Args:
            key: from `answer_key`.
            kind: "label", "sample", "rules" or "check".
            size: "large" or "small".
            model: its name.
            prompt: the messages with the text's place left open; stored once for all texts.
            chunk_id: the text that is labelled; None for rules.
            label: the class.
            scores: for local models, the raw score of each class.
            confidence: 0 to 1, where the model gives one.
            reply: what the model wrote.
            usage: tokens and time of the call; None counts as nothing used.
        """
        prompt_id = _digest([[turn["role"], turn["content"]] for turn in prompt])[:16]
        messages = json.dumps([dict(turn) for turn in prompt], ensure_ascii=False)
        used, now = _used(usage), _now()
        stored = json.dumps([float(score) for score in scores]) if scores is not None else None
        answer = (key, chunk_id, prompt_id, model, size, kind, label, stored, confidence, reply, *used, now)
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (prompt_id, messages))
            db.execute(f"INSERT OR IGNORE INTO answers VALUES ({','.join('?' * len(answer))})", answer)
            self._count_call(db, (key, chunk_id, model, size, kind, 1, "", reply, *used, now))
            self._known.add(key)
            db.execute("DELETE FROM in_flight WHERE key = ?", (key,))

    def record_failure(
        self,
        *,
        key: str,
        kind: str,
        size: str,
        model: str,
        reason: str,
        chunk_id: str | None = None,
        usage: "Reply | None" = None,
    ) -> None:
        """Stores a call whose reply was no answer, with what it cost, why it failed, and the reply in `usage`."""
        reply = None if usage is None else usage.text
        with self._transaction() as db:
            self._count_call(db, (key, chunk_id, model, size, kind, 0, reason, reply, *_used(usage), _now()))
            db.execute("DELETE FROM in_flight WHERE key = ?", (key,))

    def reserve(self, key: str, dollars: float) -> None:
        """Notes what a call under `key` may cost, before it is sent; its answer or failure takes the note away."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO in_flight VALUES (?, ?)", (key, dollars))

    def write_off(self) -> float:
        """Dollars of calls whose outcome nobody saw, as their run was killed; counts as spent for good.

        To be called while no call is under way.
        """
        with self._transaction() as db:
            [lost] = db.execute("SELECT coalesce(sum(dollars), 0) FROM in_flight").fetchone()
            total = float(lost) + self.written_off()
            db.execute("DELETE FROM in_flight")
            db.execute("INSERT OR REPLACE INTO findings VALUES ('written off', ?)", (repr(total),))
        return total

    def written_off(self) -> float:
        """Dollars of earlier calls whose outcome nobody saw."""
        return float(self.finding("written off") or 0.0)

    def finding(self, name: str) -> str | None:
        """What was found out before and noted with `note_finding`; None if nothing was."""
        with self._guard() as db:
            row = db.execute("SELECT value FROM findings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note_finding(self, name: str, value: str) -> None:
        """Keeps something found out about an endpoint, in place of what was noted before."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO findings VALUES (?, ?)", (name, value))

    def models(self) -> set[str]:
        """The models that have answered."""
        return set(self._table("SELECT DISTINCT model FROM answers")["model"])

    def usage(self, *, kind: str | None = None, model: str | None = None) -> "pd.DataFrame":
        """All calls ever made, failed ones included, a row an LLM.

        Columns: size, model, calls, failed, prompt_tokens, completion_tokens, seconds.

        Args:
            kind: only calls for these ("label" or "rules").
            model: only calls to this model.
        """
        return self._table(
            "SELECT size, model, count(*) AS calls, sum(ok = 0) AS failed, sum(prompt_tokens) AS prompt_tokens, "
            "sum(completion_tokens) AS completion_tokens, sum(seconds) AS seconds FROM calls "
            "WHERE coalesce(kind = ?, TRUE) AND coalesce(model = ?, TRUE) GROUP BY size, model",
            (kind, model),
        )

    def first_and_last_call(self) -> tuple[str, str] | None:
        """When the first and the last call ended, as ISO 8601 in UTC; None where none was made."""
        with self._guard() as db:
            first, last = db.execute("SELECT min(created), max(created) FROM calls").fetchone()
        return None if first is None else (first, last)

    def count_cached(self, keys: Iterable[str]) -> None:
        """Adds to `cached` the answers under these keys that were there when this store was opened, each once."""
        with self._transaction() as db:
            new = set(keys) - self._known
            self._known |= new
            db.execute(
                "INSERT INTO counters VALUES ('cached', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (len(new),),
            )

    def cached(self) -> int:
        """How many answers of earlier starts were served from here in place of a call."""
        with self._guard() as db:
            row = db.execute("SELECT value FROM counters WHERE name = 'cached'").fetchone()
        return 0 if row is None else int(row[0])

    def answers(self, kind: str) -> "pd.DataFrame":
        """All answers of a kind in the order they came, with the columns of `Answer`, which names the kinds."""
        names = ", ".join(Answer.__dataclass_fields__)
        table = self._table(f"SELECT {names} FROM answers WHERE kind = ? ORDER BY rowid", (kind,))
        for name in ("chunk_id", "label", "scores", "reply"):
            table[name] = table[name].astype(object).where(table[name].notna(), None)
        table["scores"] = [json.loads(scores) if isinstance(scores, str) else None for scores in table["scores"]]
        return table

    def failures(self) -> "pd.DataFrame":
        """All failed calls in the order they came: key, chunk_id, model, size, kind, reason, reply, created."""
        return self._table(
            "SELECT key, chunk_id, model, size, kind, reason, reply, created FROM calls WHERE NOT ok ORDER BY call"
        )

    def prompt(self, prompt_id: str) -> list[Message]:
        """The messages of an answer's `prompt_id`, with the text's place left open (`render` fills it in)."""
        with self._guard() as db:
            row = db.execute("SELECT messages FROM prompts WHERE prompt_id = ?", (prompt_id,)).fetchone()
        if row is None:
            raise RunFolderError(f"{self.path} holds no prompt {prompt_id}. Take the id from its answers.")
        messages: list[Message] = json.loads(row[0])
        return messages

    def human_labels(self) -> dict[str, str]:
        """chunk_id -> the class that a person gave it, which outranks any LLM's."""
        with self._guard() as db:
            return dict(db.execute("SELECT chunk_id, label FROM human_labels ORDER BY rowid").fetchall())

    def set_human_label(self, chunk_id: str, label: str, *, note: str = "") -> None:
        """Stores a person's label, in place of an earlier one of the same text; `undo_human_label` brings that back."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO replaced_labels (chunk_id, label, note, created) "
                "SELECT ?, label, note, created FROM (SELECT 1) LEFT JOIN human_labels ON chunk_id = ?",
                (chunk_id, chunk_id),
            )
            db.execute(
                "INSERT INTO human_labels VALUES (?, ?, ?, ?) ON CONFLICT (chunk_id) "
                "DO UPDATE SET label = excluded.label, note = excluded.note, created = excluded.created",
                (chunk_id, label, note, _now()),
            )

    def undo_human_label(self, among: Collection[str], note: str = "") -> str | None:
        """Takes back the latest label that a person gave one of these texts; what it took the place of stands again.

        Args:
            among: chunk ids.
            note: where the label was given; one that a text has by now from elsewhere is not taken back here.
        Returns:
            The text's chunk_id; None where there is nothing to take back.
        """
        with self._transaction() as db:
            steps = db.execute("SELECT step, chunk_id, label, note, created FROM replaced_labels ORDER BY step DESC")
            here = {row[0] for row in db.execute("SELECT chunk_id FROM human_labels WHERE note = ?", (note,))}
            last = next((row for row in steps if row[1] in here and row[1] in among), None)
            if last is None:
                return None
            step, chunk_id, *before = last
            db.execute("DELETE FROM replaced_labels WHERE step = ?", (step,))
            if before[0] is None:
                db.execute("DELETE FROM human_labels WHERE chunk_id = ?", (chunk_id,))
            else:
                db.execute(
                    "UPDATE human_labels SET label = ?, note = ?, created = ? WHERE chunk_id = ?", (*before, chunk_id)
                )
            return str(chunk_id)

    def selected(self) -> list[str]:
        """The chunk ids chosen for training, in the order they were chosen."""
        with self._guard() as db:
            return [row[0] for row in db.execute("SELECT chunk_id FROM selected ORDER BY position")]

    def selection(self) -> "pd.DataFrame":
        """The texts chosen for training, in order: position, chunk_id, why."""
        return self._table("SELECT position, chunk_id, why FROM selected ORDER BY position")

    def add_selected(self, chosen: Sequence[tuple[str, str]]) -> None:
        """Appends (chunk_id, why) pairs; what was chosen before keeps its place."""
        with self._transaction() as db:
            for chunk_id, why in chosen:
                db.execute(
                    "INSERT OR IGNORE INTO selected (position, chunk_id, why) "
                    "SELECT coalesce(max(position) + 1, 0), ?, ? FROM selected",
                    (str(chunk_id), str(why)),
                )

    def sent_on(self) -> dict[str, int]:
        """chunk_id -> how many labels there were when the small LLM's label of it was doubted and the large asked."""
        with self._guard() as db:
            return dict(db.execute("SELECT chunk_id, labels FROM sent_on").fetchall())

    def add_sent_on(self, chunk_ids: Sequence[str], labels: int) -> None:
        """Notes that the large LLM is to be asked for these texts from `labels` labels on; the first note stays.

        Notes for more labels, which a run with other sizes left, are dropped: these are chosen anew when they come.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM sent_on WHERE labels > ?", (labels,))
            for chunk_id in chunk_ids:
                db.execute("INSERT OR IGNORE INTO sent_on VALUES (?, ?)", (chunk_id, labels))

    def forget_sent_on(self) -> None:
        """Takes all of these notes away; answers stay."""
        with self._transaction() as db:
            db.execute("DELETE FROM sent_on")

    def _open(self) -> None:
        with self._guard() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise RunFolderError(
                    f"{self.path} was written by a newer version (its format is {version}, ours {SCHEMA_VERSION}). "
                    "Update nbhelpers, or choose another path.output_dir."
                )
            # A killed process loses nothing this way; only a power cut may cost the last moments.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA_VERSION:
            with self._transaction() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
                if version < SCHEMA_VERSION:
                    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise RunFolderError(
                            f"{self.path} is another program's database. Move it, or choose another path.output_dir."
                        )
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _count_call(self, db: sqlite3.Connection, values: tuple[Any, ...]) -> None:
        db.execute(
            "INSERT INTO calls (key, chunk_id, model, size, kind, ok, reason, reply, prompt_tokens, completion_tokens, "
            f"seconds, created) VALUES ({','.join('?' * len(values))})",
            values,
        )

    def _rows_of(self, keys: Iterable[str], names: str) -> Iterator[Any]:
        """These columns of the answers that are there."""
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            part = wanted[start : start + _KEYS_PER_QUERY]
            query = f"SELECT {names} FROM answers WHERE key IN ({','.join('?' * len(part))})"
            with self._guard() as db:
                rows = db.execute(query, part).fetchall()
            yield from rows

    def _table(self, query: str, values: Sequence[Any] = ()) -> "pd.DataFrame":
        import pandas as pd

        with self._guard() as db:
            cursor = db.execute(query, values)
            return pd.DataFrame(cursor.fetchall(), columns=[column[0] for column in cursor.description])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _guard(self) -> Iterator[sqlite3.Connection]:
        """One thread at a time, and SQLite's errors as ours."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.DatabaseError as error:
                raise self._explained(error) from None

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        damaged = not isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.IntegrityError)
        if damaged or "malformed" in str(error):
            return RunFolderError(
                f"{self.path} is damaged ({error}). Put a copy of it back, or rename it to go on without its answers "
                f"(they are then paid for again); 'sqlite3 {self.path.name} .recover' may save some."
            )
        if isinstance(error, sqlite3.OperationalError):
            return RunFolderError(
                f"{self.path} could not be used ({error}). Check that the disk has space, that the file may be "
                "written, and that no other run works on this folder."
            )
        return error


def _used(usage: "Reply | None") -> tuple[int, int, float]:
    if usage is None:
        return 0, 0, 0.0
    return int(usage.prompt_tokens), int(usage.completion_tokens), float(usage.seconds)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
