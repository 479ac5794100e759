"""`kill -9` in the middle of labelling, again and again: no received answer is lost, and none is asked for twice.

Every other kill comes while the store is being written: as soon as its write-ahead log has changed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from chat_server import ChatServer, keyword_labeller, shown_text
from runs_made import WORDS, texts_of, write_rows

from nbhelpers.chunking import chunk_id
from nbhelpers.label_store import LabelStore

KILLS, TEXTS, CONCURRENCY = 32, 600, 8
# Imports once, then labels in a child of its own whenever it is told to. What is safe by now, as the store says by
# returning, is noted in a file.
WORKER = """
import json, os, sys
from pathlib import Path
import pandas as pd
from nbhelpers.chunking import chunk_id
from nbhelpers.config_file import parse_config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks

class Noting(LabelStore):
    def put_answer(self, **answer):
        super().put_answer(**answer)
        os.write(noted, (answer["chunk_id"] + "\\n").encode())

url, folder, concurrency = sys.argv[1:]
noted = os.open(Path(folder) / "noted.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
api = {"large_model": "big", "large_base_url": url, "small_model": "little", "small_base_url": url}
config = parse_config({
    "api": api, "classification": {"classes": ["sports", "politics", "weather"], "desc": "Sort."},
    "path": {"input_dir": folder, "output_dir": folder}, "system": {"concurrency_limit": int(concurrency)},
})
texts = [json.loads(line)["text"] for line in (Path(folder) / "rows.jsonl").read_text("utf-8").splitlines()]
chunks = pd.DataFrame({"chunk_id": [chunk_id(text) for text in texts], "text": texts})
print("ready", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        with Noting(Path(folder) / "labels.sqlite") as store:
            label_chunks(chunks, size="small", rules="Go by the word.", config=config, store=store)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def wait_for_a_write(log: Path) -> None:
    """Returns in the moment in which the file grows or is written anew, or after a second without."""

    def seen() -> tuple[int, int]:
        found = log.stat() if log.exists() else None
        return (0, 0) if found is None else (found.st_size, found.st_mtime_ns)

    before, deadline = seen(), time.monotonic() + 1
    while seen() == before and time.monotonic() < deadline:
        pass


def test_no_received_answer_is_lost_or_asked_for_twice(tmp_path: Path) -> None:
    write_rows(tmp_path, texts_of(dict.fromkeys(WORDS, TEXTS // 3)))
    rng = random.Random(0)
    with ChatServer(keyword_labeller(WORDS), latency=0.05) as server:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url, str(tmp_path), str(CONCURRENCY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        kills, known, after_kill = 0, set[str](), []
        log = tmp_path / "labels.sqlite-wal"
        while True:
            before = server.calls
            worker.stdin.write("go\n")
            worker.stdin.flush()
            child = int(worker.stdout.readline())
            if kills < KILLS:
                deadline = time.monotonic() + 30
                while server.calls < before + 4 and time.monotonic() < deadline:  # it works by now
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.1))
                if kills % 2:
                    wait_for_a_write(log)
                os.kill(child, signal.SIGKILL)
            status = int(worker.stdout.readline())
            with LabelStore(tmp_path / "labels.sqlite") as store:
                stored = set(store.answers("label")["chunk_id"])
            assert known | set((tmp_path / "noted.txt").read_text("utf-8").split()) <= stored, "an answer was lost"
            known = stored
            if status == 0:
                break
            kills += 1
            time.sleep(0.1)  # what the server was answering when the client died
            with LabelStore(tmp_path / "labels.sqlite") as store:
                by_id = store.answers("label")["reply"]
            assert len(by_id) == len(stored)
            after_kill.append((server.calls, stored))
        worker.stdin.close()
        worker.wait(10)

        assert kills >= 30
        assert len(known) == TEXTS
        asked = [chunk_id(str(shown_text(body["messages"]))) for body in server.requests]
        for calls, stored in after_kill:
            assert not stored & set(asked[calls:]), "asked again for an answer that had been received"
        assert len(server.asked_twice) <= kills * CONCURRENCY  # only what was under way
