"""The label store: what it keeps, what it never does, and that a killed process loses nothing."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from nbhelpers.errors import RunFolderError
from nbhelpers.label_store import Answer, LabelStore, answer_key
from nbhelpers.prompt_files import Message

PROMPT: list[Message] = [{"role": "user", "content": "Label {text}"}]


@dataclass(frozen=True)
class Used:
    text: str | None = "Final label: spam"
    prompt_tokens: int = 100
    completion_tokens: int = 10
    seconds: float = 0.5


@pytest.fixture
def store(tmp_path: Path):
    with LabelStore(tmp_path / "run" / "labels.sqlite") as store:
        yield store


def put(store: LabelStore, key: str, label: str | None = "spam", **more) -> None:
    call = {"kind": "label", "size": "small", "model": "m", "prompt": PROMPT, "chunk_id": f"chunk-{key}"}
    store.put_answer(key=key, label=label, **{**call, **more})


def test_an_answer_comes_back_as_it_was_put(store: LabelStore) -> None:
    put(store, "k", "spam", reply="Final label: spam", usage=Used(), confidence=0.75)
    answer = store.get_answers(["k", "other", "k"])["k"]
    assert answer == Answer(
        key="k",
        chunk_id="chunk-k",
        prompt_id=answer.prompt_id,
        model="m",
        size="small",
        kind="label",
        label="spam",
        scores=None,
        confidence=0.75,
        reply="Final label: spam",
        prompt_tokens=100,
        completion_tokens=10,
        seconds=0.5,
        created=answer.created,
    )
    assert answer.created.endswith("+00:00")
    assert store.prompt(answer.prompt_id) == PROMPT


def test_scores_of_a_local_model_come_back_in_their_order(store: LabelStore) -> None:
    put(store, "k", None, scores=[-1.5, 0.1, 3.0])
    answer = store.get_answers(["k"])["k"]
    assert answer.scores == [-1.5, 0.1, 3.0]
    assert answer.label is None


def test_answers_outlive_the_store(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite") as store:
        put(store, "k", "ham")
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert store.get_answers(["k"])["k"].label == "ham"


def test_an_answer_is_never_overwritten_but_every_call_is_counted(store: LabelStore) -> None:
    put(store, "k", "spam", usage=Used())
    put(store, "k", "ham", usage=Used())
    assert store.get_answers(["k"])["k"].label == "spam"
    assert store.usage()["calls"].tolist() == [2]


def test_failed_calls_cost_but_are_never_served(store: LabelStore) -> None:
    call = {"kind": "label", "size": "small", "model": "m", "chunk_id": "c"}
    store.record_failure(key="k", reason="off the list", usage=Used(text="Final label: x"), **call)
    store.record_failure(key="k", reason="empty reply", **call)
    put(store, "other", usage=Used())
    store.put_answer(key="r", kind="rules", size="large", model="M", prompt=PROMPT, reply="1. Rule.", usage=Used())
    assert store.get_answers(["k"]) == {}
    usage = store.usage()
    assert usage.pop("model").tolist() == ["M", "m"]
    assert usage.to_dict("records") == [
        {"size": "large", "calls": 1, "failed": 0, "prompt_tokens": 100, "completion_tokens": 10, "seconds": 0.5},
        {"size": "small", "calls": 3, "failed": 2, "prompt_tokens": 200, "completion_tokens": 20, "seconds": 1.0},
    ]
    assert store.failures()[["reason", "reply"]].fillna("").to_numpy().tolist() == [
        ["off the list", "Final label: x"],
        ["empty reply", ""],
    ]


def test_an_empty_store_has_empty_tables(store: LabelStore) -> None:
    assert store.usage().empty
    assert {"size", "calls", "failed"} <= set(store.usage())
    assert store.answers("label").empty
    assert store.selected() == []
    assert store.human_labels() == {}
    assert store.cached() == 0
    assert store.get_answers([]) == {}


def test_answers_as_a_table_for_export(store: LabelStore) -> None:
    put(store, "a", "ham", reply="Final label: ham")
    put(store, "b", None, scores=[1.0, 2.0])
    store.put_answer(key="r", kind="rules", size="large", model="M", prompt=PROMPT, reply="1. Rule.")
    table = store.answers("label")
    assert table["key"].tolist() == ["a", "b"]
    assert table["scores"].tolist() == [None, [1.0, 2.0]]
    assert table["label"].tolist() == ["ham", None]
    assert table["reply"].tolist() == ["Final label: ham", None]
    assert store.answers("rules")["reply"].tolist() == ["1. Rule."]
    assert store.prompt(table["prompt_id"][0]) == PROMPT
    with pytest.raises(RunFolderError, match="no prompt nope"):
        store.prompt("nope")


def test_a_prompt_is_stored_once_for_all_its_texts(store: LabelStore) -> None:
    for key in "abc":
        put(store, key)
    put(store, "d", prompt=[{"role": "user", "content": "Another {text}"}])
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM prompts").fetchone() == (2,)
    db.close()


def test_many_answers_are_found_at_once(store: LabelStore) -> None:
    for number in range(1203):
        put(store, f"k{number}", "spam" if number % 2 else "ham")
    found = store.get_answers(f"k{number}" for number in range(2000))
    assert len(found) == 1203
    assert all(found[f"k{n}"].label == ("spam" if n % 2 else "ham") for n in range(1203))
    assert store.answered([*(f"k{number}" for number in range(2000)), "other"]) == set(found)


def test_what_determines_an_answer_changes_its_key() -> None:
    base = {
        "text": "a",
        "prompt": PROMPT,
        "model": "m",
        "mode": "api",
        "parameters": {"temperature": 0.2, "stop": True},
    }
    changed = [
        {"text": "b"},
        {"prompt": [{"role": "user", "content": "Other {text}"}]},
        {"prompt": [{"role": "system", "content": "Label {text}"}]},
        {"model": "n"},
        {"mode": "local"},
        {"parameters": {"temperature": 0.3, "stop": True}},
        {"parameters": {}},
    ]
    keys = {answer_key(**{**base, **change}) for change in [{}, *changed]}
    assert len(keys) == 8
    again = answer_key(**{**base, "parameters": {"stop": True, "temperature": 0.2}})
    assert again == answer_key(**base)
    assert len(again) == 64
    assert answer_key(**{**base, "text": "half a pair \ud83d"}) not in keys


def test_keys_stay_the_same_between_versions() -> None:
    key = answer_key(text="a", prompt=PROMPT, model="m", mode="api", parameters={"temperature": 0.2})
    assert key == "3454b8cc65fc09af10b176e337fbc31ceb09f6d59408946fa0540fd2b14edf67"


def test_a_person_outranks_and_may_change_their_mind(store: LabelStore) -> None:
    store.set_human_label("c1", "ham")
    store.set_human_label("c2", "spam", note="obvious")
    store.set_human_label("c1", "spam")
    assert store.human_labels() == {"c1": "spam", "c2": "spam"}


def test_what_people_did_is_taken_back_step_by_step_even_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with LabelStore(path) as store:
        store.set_human_label("c1", "ham")
        store.set_human_label("c2", "spam")
        store.set_human_label("c1", "spam")
    with LabelStore(path) as store:
        assert store.undo_human_label({"c2", "other"}) == "c2"
        assert store.human_labels() == {"c1": "spam"}
        assert store.undo_human_label({"c1", "c2"}) == "c1"
        assert store.human_labels() == {"c1": "ham"}
        assert store.undo_human_label(["c1", "c2"]) == "c1"
        assert store.human_labels() == {}
        assert store.undo_human_label({"c1", "c2"}) is None


def test_what_was_done_elsewhere_since_is_not_taken_back(store: LabelStore) -> None:
    store.set_human_label("c1", "ham", note="review")
    store.set_human_label("c2", "spam", note="review")
    store.set_human_label("c2", "ham", note="matrix")
    assert store.undo_human_label({"c1", "c2"}, "review") == "c1"
    assert store.undo_human_label({"c1", "c2"}, "review") is None
    assert store.human_labels() == {"c2": "ham"}
    assert store.undo_human_label({"c1", "c2"}, "matrix") == "c2"
    assert store.undo_human_label({"c1", "c2"}, "review") == "c2"
    assert store.human_labels() == {}


def test_a_label_that_stands_again_has_its_own_note_and_date(store: LabelStore) -> None:
    def stored() -> tuple[str, ...]:
        with closing(sqlite3.connect(store.path)) as db:
            return tuple(db.execute("SELECT label, note, created FROM human_labels").fetchone())

    store.set_human_label("c1", "ham", note="review")
    before = stored()
    time.sleep(0.005)  # dates have milliseconds
    store.set_human_label("c1", "spam", note="matrix")
    assert stored()[2] > before[2]
    store.undo_human_label({"c1"}, "matrix")
    assert stored() == before


def test_chosen_texts_keep_their_order_and_are_chosen_once(store: LabelStore) -> None:
    store.add_selected([("c3", "random"), ("c1", "random")])
    store.add_selected([("c1", "unsure"), ("c2", "unsure")])
    assert store.selected() == ["c3", "c1", "c2"]
    assert store.selection()["why"].tolist() == ["random", "random", "unsure"]


def test_when_a_text_was_sent_on_stays(store: LabelStore) -> None:
    store.add_sent_on(["c1", "c2"], 40)
    store.add_sent_on(["c2", "c3"], 80)
    assert store.sent_on() == {"c1": 40, "c2": 40, "c3": 80}
    store.add_sent_on(["c4"], 60)  # by a run with other sizes
    assert store.sent_on() == {"c1": 40, "c2": 40, "c4": 60}


def test_what_was_found_out_is_kept_and_replaced(store: LabelStore) -> None:
    assert store.finding("form") is None
    store.note_finding("form", "plain")
    store.note_finding("form", "json")
    assert store.finding("form") == "json"


def test_what_a_killed_call_may_have_cost_is_written_off_once(store: LabelStore) -> None:
    store.reserve("a", 0.5)
    store.reserve("b", 0.25)
    store.reserve("b", 0.125)  # asked again: in place of the first
    store.record_failure(key="a", kind="label", size="small", model="m", reason="no")
    assert (store.write_off(), store.write_off(), store.written_off()) == (0.125, 0.125, 0.125)


def test_an_answer_is_cached_once_in_each_start_after_the_one_that_bought_it(tmp_path: Path) -> None:
    for bought in ("a", "b", "c"):
        with LabelStore(tmp_path / "labels.sqlite") as store:
            store.put_answer(key=bought, kind="label", size="small", model="m", prompt=PROMPT)
            there = sorted({"a", "b", "c"}, key="abc".index)[: "abc".index(bought) + 1]
            store.count_cached(there)
            store.count_cached(there)
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert store.cached() == 0 + 1 + 2


def test_several_threads_may_use_one_store(store: LabelStore) -> None:
    def work(name: str) -> None:
        for number in range(50):
            put(store, f"{name}{number}")
            assert store.get_answers([f"{name}{number}"])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.answers("label")) == 200
    assert store.usage()["calls"].tolist() == [200]


def test_an_answer_and_its_call_are_stored_together_or_not_at_all(store: LabelStore) -> None:
    with pytest.raises((sqlite3.Error, RunFolderError, TypeError)):
        put(store, "k", usage=Used(text=object(), seconds=object()))  # type: ignore[arg-type]
    with pytest.raises((sqlite3.Error, RunFolderError)):
        put(store, "k", reply=object())
    assert store.get_answers(["k"]) == {}
    assert store.usage().empty
    put(store, "k")  # and the store goes on working
    assert "k" in store.get_answers(["k"])


def test_a_file_that_is_no_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"this is not a database at all" * 50)
    with pytest.raises(RunFolderError, match=r"labels\.sqlite is damaged .* rename it"):
        LabelStore(path)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with LabelStore(path) as store:
        for number in range(400):
            put(store, f"k{number}", reply="x" * 200)
    content = bytearray(path.read_bytes())
    content[8192:] = random.Random(0).randbytes(len(content) - 8192)
    path.write_bytes(bytes(content))

    def read() -> None:
        with LabelStore(path) as store:
            store.answers("label")

    with pytest.raises(RunFolderError, match="is damaged"):
        read()


def test_a_newer_or_a_strange_file_is_left_alone(tmp_path: Path) -> None:
    newer, strange = tmp_path / "newer.sqlite", tmp_path / "strange.sqlite"
    for path, statement in ((newer, "PRAGMA user_version = 99"), (strange, "CREATE TABLE songs (title)")):
        db = sqlite3.connect(path)
        db.execute(statement)
        db.commit()
        db.close()
    with pytest.raises(RunFolderError, match="newer version"):
        LabelStore(newer)
    with pytest.raises(RunFolderError, match="another program's database"):
        LabelStore(strange)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="could not be opened"):
        LabelStore(tmp_path / "file" / "labels.sqlite")


WRITER = """
import sys
from nbhelpers.label_store import LabelStore
store = LabelStore(sys.argv[1])
prompt = [{"role": "user", "content": "Label {text}"}]
print("ready", flush=True)
for number in range(1_000_000):
    key = f"{sys.argv[2]}-{number}"
    store.put_answer(key=key, kind="label", size="small", model="m", prompt=prompt, label="spam", reply="x" * 300)
    print(key, flush=True)
"""


def test_killed_processes_lose_no_answer_they_had_stored(tmp_path: Path) -> None:
    path, rng = tmp_path / "labels.sqlite", random.Random(0)
    reported: list[str] = []
    for kill in range(10):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, str(kill)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
        process.stdout.close()
        process.wait()
        reported += [line for line in lines[:-1] if line]
    with LabelStore(path) as store:
        found = store.get_answers(reported)
        assert len(reported) > 100
        assert set(found) == set(reported)
        assert len(store.answers("label")) - len(reported) <= 10  # at most the one that was on its way
        assert store.usage()["calls"].tolist() == [len(store.answers("label"))]
        assert isinstance(store.usage(), pd.DataFrame)
        assert json.dumps(found[reported[0]].reply) == json.dumps("x" * 300)
