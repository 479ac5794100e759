"""The lock of an output folder, across processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from runs_made import WORDS, WordFits, prepare, texts_of, write_rows

from nbhelpers import lock
from nbhelpers.config import Config
from nbhelpers.errors import RunFolderError
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels, write_test_labels
from nbhelpers.lock import HOLDER, one_run, one_step
from nbhelpers.notebook import open_run
from nbhelpers.prediction import predict_all
from nbhelpers.rounds import Rounds
from nbhelpers.rules import make_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.test_set import open_pilot, open_test_set

HOLD = """
import sys, time
from pathlib import Path
from nbhelpers import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ORPHAN_SECONDS", 0.1)
    monkeypatch.delenv(HOLDER, raising=False)


def holder(kind: str, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("first", ["one_run", "one_step"])
def test_a_second_run_says_so_and_the_killed_ones_folder_is_free(first: str, tmp_path: Path) -> None:
    process = holder(first, tmp_path)
    try:
        for second in (one_run, one_step):
            with (
                pytest.raises(RunFolderError, match=r"Another run works on .*choose another path\.output_dir"),
                second(tmp_path),
            ):
                pass
    finally:
        process.kill()
        process.wait()
    with one_run(tmp_path), one_step(tmp_path), one_step(tmp_path):
        pass


def test_the_notebooks_of_a_run_pass_its_lock(tmp_path: Path) -> None:
    with one_run(tmp_path):
        process = holder("one_step", tmp_path)  # inherits the environment
        process.kill()
        process.wait()
    assert HOLDER not in os.environ


def test_a_step_waits_for_the_orphan_of_a_killed_run(tmp_path: Path) -> None:
    orphan = holder("one_step", tmp_path, **{HOLDER: str(tmp_path.resolve())})
    try:
        with one_run(tmp_path), pytest.raises(RunFolderError), one_step(tmp_path):
            pass
    finally:
        orphan.kill()
        orphan.wait()


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(RunFolderError, match=r"could not be locked .*path\.output_dir"), one_run(tmp_path / "file"):
        pass


def test_no_step_opened_by_hand_works_beside_a_run(
    make_config: Callable[..., Config],
    server: ChatServer,
    run: RunFolder,
    store: LabelStore,
    fits: WordFits,
    tiny_base_model: Path,
) -> None:
    sizes = {"train_set_size": 15, "test_set_size": 15, "max_iters": 1, "model_path": str(tiny_base_model)}
    config = make_config(server.url, training=sizes)
    write_rows(config.path.input_dir, texts_of(dict.fromkeys(WORDS, 15)))
    prepare(config, run, store)
    Rounds(config, run, store).run_until_done()
    predict_all(config, run, store)
    opened = open_run("05_predict", config.model_dump(mode="json"))
    write_rows(config.path.input_dir, texts_of({"goal": 5}, seed=1), name="more.jsonl")
    steps: list[Callable[[], object]] = [
        lambda: ingest(config, run),
        lambda: make_rules(config, run, store),
        lambda: predict_all(config, run, store),
        lambda: open_pilot(config, run),
        lambda: open_test_set(config, run),
        lambda: write_test_labels(run, test_labels, config=config),
        opened.finish,
    ]
    test_labels = read_test_labels(run)
    run.test_set.unlink()
    run.test_labels.unlink()
    run.rules.unlink()
    (run.predictions / "predictions.csv").unlink()
    changes: dict[str, Any] = {"classification": {"desc": "Sort them otherwise."}, "rules": {"refine": 20}}
    config = make_config(server.url, training=sizes, **changes)
    process = holder("one_run", run.root)
    try:
        server.reset()
        before = run.chunks.read_bytes()
        for step in steps:
            with pytest.raises(RunFolderError, match="Another run works on"):
                step()
        assert server.calls == 0
        assert run.chunks.read_bytes() == before
        assert not [path for path in (run.rules, run.pilot, run.test_set, run.test_labels) if path.exists()]
        assert not (run.predictions / "predictions.csv").exists()
    finally:
        process.kill()
        process.wait()
    with one_run(run.root):  # as a notebook that the run itself started
        for step in (*steps[:2], *steps[3:6]):
            step()
    assert [path for path in (run.rules, run.pilot, run.test_set, run.test_labels) if not path.exists()] == []
    assert run.chunks.read_bytes() != before
