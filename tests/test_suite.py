"""The notebooks 01 to 05, run by papermill as users run them, against a local chat-completions server."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from cases import Case
from chat_server import ChatServer, shown_text
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from tiny_models import put_in_hf_cache, tiny_distilbert
from traitlets import default
from transformers import AutoModelForSequenceClassification, pipeline

from nbhelpers import suite
from nbhelpers.__main__ import main
from nbhelpers.config import Config, repository_root
from nbhelpers.errors import ConfigError, RunFolderError
from nbhelpers.notebook import open_run
from nbhelpers.run_folder import RunFolder, write_json, write_text

ROOT = repository_root()
SECRET = "sk-test-5f0c2d71e8"
MakeCase = Callable[..., Case]


class Attended(NotebookClient):
    """Runs a notebook as JupyterLab does, where a person could answer a question."""

    async def async_start_new_kernel_client(self) -> Any:
        client = await super().async_start_new_kernel_client()
        client.allow_stdin = True
        return client


class OnUnixSockets(AsyncKernelManager):
    """Starts kernels without ports, which a test that runs beside could take."""

    @default("transport")
    def _transport(self) -> str:
        return "ipc"

    @default("ip")
    def _ip(self) -> str:
        return f"{tempfile.mkdtemp()}/kernel"  # a socket's path has to be short


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_client.AsyncKernelManager", OnUnixSockets)
    monkeypatch.setenv("NBHELPERS_TEST_KEY", SECRET)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests run side by side


@pytest.fixture
def make_case(tmp_path: Path) -> MakeCase:
    return lambda classes, counts: Case(tmp_path / "case", classes, counts)


def run(*arguments: str) -> tuple[int, str]:
    """The command line's exit code and all it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["run", *arguments])
    return code, out.getvalue()


def labelled(server: ChatServer) -> int:
    return sum(shown_text(body["messages"]) is not None for body in server.requests)


def check_notebooks(case: Case) -> None:
    """All five ran without an error, show figures, and hold no secret."""
    files = sorted((case.output / "notebooks").glob("*.ipynb"))
    assert [file.stem for file in files] == ["01_ingest", "02_rules", "03_test_labels", "04_train", "05_predict"]
    for file in files:
        outputs = [
            output
            for cell in nbformat.read(file, as_version=4).cells
            if cell.cell_type == "code"
            for output in cell.outputs
        ]
        assert not [output for output in outputs if output.output_type == "error"]
        assert file.stem == "02_rules" or any("image/png" in output.get("data", {}) for output in outputs)
    for file in case.output.rglob("*"):
        assert not (file.is_file() and SECRET.encode() in file.read_bytes()), file


@pytest.mark.parametrize(
    ("classes", "counts"),
    [
        (["not spam", "spam, \"urgent\" & 'more'"], [150, 60]),
        (["sport", "sport news", "Wetter für morgen – 天気"], [80, 60, 60]),
    ],
    ids=["two", "three"],
)
def test_all_notebooks_from_texts_to_predictions(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, classes: list[str], counts: list[int]
) -> None:
    case = make_case(classes, counts)
    with ChatServer(case.answer, key=SECRET, models=["large", "small"]) as server:
        code, printed = run(str(case.write(server.url, labeling={"compare": 30})))
        assert code == 0, printed
        assert server.asked_twice == []
        labels = case.report["iterations"][-1]["labels"]
        assert labelled(server) == 50 + 30 + labels + labels // 10  # a tenth was asked of the large LLM, too
        assert (case.report["llms_agree"]["n"], case.report["llms_agree"]["share"]) == (30, 1.0)
        check_notebooks(case)

        report = case.report
        assert report["status"] == "target_reached"
        assert report["final"]["accuracy"] >= 0.9
        assert report["final"]["accuracy_low"] > report["final"]["majority_baseline"]
        assert report["llm"]["calls"] == server.calls

        predictions = pd.read_parquet(case.output / "classifiers" / "final_classifier_output" / "predictions.parquet")
        assert len(predictions) == sum(counts)
        assert (predictions["label"] == predictions["text"].map(case.truth)).mean() > 0.9
        assert predictions["label_source"].value_counts().to_dict() == {
            "LLM": 50 + labels,
            "classifier": sum(counts) - 50 - labels,
        }

        page = (case.output / "report.html").read_text("utf-8")
        assert f"{report['final']['classifier']}, fine-tuned from" in page
        assert SECRET not in page
        assert "library_name: transformers" in (case.final() / "README.md").read_text("utf-8")

        plain = pipeline("text-classification", model=str(case.final()), device="cpu")
        for row in predictions.head(5).itertuples():
            assert plain(row.text)[0]["label"] == row.predicted_label

        before = server.calls
        monkeypatch.delenv("NBHELPERS_TEST_KEY")  # nor is a key needed where nothing is asked
        code, printed = run(str(case.folder / "config.yaml"))
        assert code == 0, printed
        assert printed.count("up to date") == 5
        assert server.calls == before


def test_twenty_classes(make_case: MakeCase) -> None:
    names = [f"class {number}" for number in range(20)]
    case = make_case(names, [14] * 20)
    with ChatServer(case.answer) as server:
        code, printed = run(str(case.write(server.url, training={"train_set_size": 120, "max_iters": 1})))
        assert code in (0, 3), printed
        check_notebooks(case)
        model = AutoModelForSequenceClassification.from_pretrained(case.final())
        assert [model.config.id2label[i] for i in range(20)] == names
        assert len(case.report["iterations"][0]["per_class"]) == 20


def test_a_rare_class_is_not_passed_by_always_saying_the_frequent_one(make_case: MakeCase) -> None:
    case = make_case(["ham", "spam"], [198, 2])
    with ChatServer(case.answer) as server:
        code, printed = run(str(case.write(server.url, training={"train_set_size": 40, "train_set_increment": 20})))
        assert code == 3, printed
        report = case.report
        assert report["status"] == "max_iters"
        assert report["final"]["accuracy"] >= report["target"]
        assert report["final"]["accuracy_low"] <= report["final"]["majority_baseline"]
        check_notebooks(case)


def test_class_0_only(make_case: MakeCase) -> None:
    case = make_case(["yes", "no"], [140, 0])
    with ChatServer(case.answer) as server:
        code, printed = run(str(case.write(server.url, training={"max_iters": 1})))
        assert code == 3, printed
        row = case.report["iterations"][0]
        assert (row["failed_labels"], row["failed_test_labels"]) == (0, 0)
        assert row["train_size"] + row["validation_size"] == 60
        assert any("no" in note for note in case.report["notes"])
        check_notebooks(case)


def test_by_hand_from_another_directory_with_the_config_path_changed(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(["not spam", "spam"], [100, 60])
    with ChatServer(case.answer) as server:
        config = case.write(server.url, training={"max_iters": 1})
        for name in ("01_ingest", "02_rules", "03_test_labels", "04_train"):
            notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
            parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
            parameters.source = parameters.source.replace("params/demo.yaml", str(config))
            Attended(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
        shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("application/vnd.jupyter.widget-view+json" in data for data in shown), "the class-balance widget"
        before = server.calls
        code, printed = run(str(config))  # and the command line goes on from there
        assert code == 0, printed
        assert printed.count("up to date") == 4
        assert server.calls == before


def test_a_killed_run_goes_on_where_it_was_and_repeats_no_call(make_case: MakeCase) -> None:
    case = make_case(["not spam", "spam"], [120, 80])
    with ChatServer(case.answer, latency=0.1, models=["large", "small"]) as server:
        config = case.write(server.url, system={"concurrency_limit": 2, "required_accuracy": 0.9})
        command = [sys.executable, "-m", "nbhelpers", "run", str(config)]
        for wanted in (20, 70):  # in the middle of the test labels, then of the first batch
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            deadline = time.monotonic() + 120
            while labelled(server) < wanted and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(1.5)  # the kernel ends when its parent is gone
            assert wanted <= labelled(server) < wanted + 30
        code, printed = run(str(config))
        assert code == 0, printed
        assert "01_ingest: up to date" in printed
        # A reply that was under way when the process died was not received; nothing else is asked again.
        assert len(server.asked_twice) <= 2 * 2
        check_notebooks(case)


def test_a_kill_between_notebooks_repeats_no_call(make_case: MakeCase) -> None:
    case = make_case(["not spam", "spam"], [120, 80])
    with ChatServer(case.answer, models=["large", "small"]) as server:
        config = case.write(server.url)
        for name in ("01_ingest", "02_rules", "03_test_labels"):
            papermill.execute_notebook(
                ROOT / "notebooks" / f"{name}.ipynb",
                case.folder / f"{name}.ipynb",
                parameters={"config_path": str(config)},
                progress_bar=False,
            )
        before = server.calls
        assert labelled(server) == 50 + 2  # the test set, and two texts of the first batch for notebook 2's plan
        code, printed = run(str(config))
        assert code == 0, printed
        assert printed.count("up to date") == 3
        labels = case.report["iterations"][-1]["labels"]
        assert server.calls == before + labels + labels // 10 - 2
        assert server.asked_twice == []


def test_edited_rules_are_used_and_make_what_depends_on_them_stale(make_case: MakeCase) -> None:
    case = make_case(["not spam", "spam"], [120, 80])
    with ChatServer(case.answer) as server:
        config = case.write(server.url, training={"max_iters": 1})
        assert run(str(config))[0] == 0
        rules = case.output / "classifiers" / "rules_creation_generation.yaml"
        rules.write_text(rules.read_text("utf-8").replace("Go by the words.", "Go by the WORDS alone."), "utf-8")
        server.reset()
        code, printed = run(str(config))
        assert code == 0, printed
        assert "01_ingest: up to date" in printed
        assert "02_rules: up to date" in printed
        assert "03_test_labels: running (rules)" in printed
        asked = [json.dumps(body["messages"]) for body in server.requests]
        assert asked
        assert all("Go by the WORDS alone." in messages for messages in asked)


@pytest.mark.parametrize("helps", [True, False])
def test_rules_that_learn_are_used_from_then_on_only_where_agreement_rises(helps: bool, make_case: MakeCase) -> None:
    case = make_case(["private", "work"], [90, 90])
    run_folder = RunFolder(case.output)
    example = "Example: short notes are work, too." if helps else "Read each word."
    edits = 0

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        """The small LLM takes many texts for private ones, unless the rules have the example."""
        nonlocal edits
        text = shown_text(messages)
        if "THE NEW RULES" in messages[-1]["content"]:
            edits += 1
            return f"<rules>\n1. Go by the words.\n{example}\n</rules>"
        if model == "small" and text is not None and len(text) % 2 and "short notes" not in messages[0]["content"]:
            return "Final label: private"
        return case.answer(model, messages)

    with ChatServer(answer) as server:
        sizes = {"max_iters": 1, "train_set_size": 40, "test_set_size": 40}
        code, printed = run(str(case.write(server.url, rules={"refine": 40}, training=sizes)))
        assert code in (0, 3), printed
    asked = [
        (body["model"], text, example in body["messages"][0]["content"])
        for body in server.requests
        if (text := shown_text(body["messages"])) in case.truth
    ]
    assert (edits, len(asked)) == (1, len(set(asked)))
    texts = pd.read_parquet(run_folder.chunks).set_index("chunk_id")["text"]
    pilot, test = (json.loads(path.read_text("utf-8"))["chunk_ids"] for path in (run_folder.pilot, run_folder.test_set))
    assert (len(pilot), len(test), set(pilot) & set(test)) == (40, 40, set())
    later = [by_new for _, text, by_new in asked if text not in set(texts[pilot])]
    assert len(later) >= 60
    assert set(later) == {helps}
    labels = pd.read_parquet(run_folder.train_labels)
    assert (labels["label"] == labels["text"].map(case.truth)).all() == helps
    assert (example in run_folder.rules.read_text("utf-8")) == helps

    said = json.dumps(nbformat.read(case.output / "notebooks" / "02_rules.ipynb", as_version=4))
    assert f"+{example}" in said
    assert ("Kept: the two models agree more often by the new rules." in said) == helps
    assert ("Not kept: the two models do not agree more often by the proposed rules." in said) != helps


def test_an_augmentoolkit_config_runs_unchanged(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(["infantry", "not infantry"], [90, 90])
    tiny = tiny_distilbert(tmp_path / "distilbert", list(case.truth))
    put_in_hf_cache(tiny, "distilbert/distilbert-base-uncased", tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with ChatServer(case.answer) as server:
        config = tmp_path / "create_classifier_config.yaml"
        config.write_text(
            f"""\
pipeline: classifier-creator-pipeline

api:
  large_model: large
  large_api_key: {SECRET}
  large_base_url: {server.url}
  large_mode: api
  small_model: small
  small_base_url: {server.url}
  small_api_key: {SECRET}
  small_mode: api
classification:
  classes: ['infantry', 'not infantry'] # !!ATTENTION!! change these
  desc: Classify whether the text is related to 0. "infantry" or 1. "not infantry".
  predict_on_whole_set_at_the_end: True
path:
  default_prompts: ./prompts_that_are_not_there
  input_dir: {case.folder / "texts"}
  output_dir: {case.output}
  prompts: ./prompts_that_are_not_there
system:
  chunk_size: 900
  completion_mode: False
  concurrency_limit: 50
  required_accuracy: 0.9
  use_stop: True
training:
  max_iters: 2
  model_path: distilbert-base-uncased
  test_set_size: 10
  train_set_increment: 40
  train_set_size: 40
  truncation_type: head-tail
meta_datagen:
  do_meta_datagen: True
  meta_datagen_keys:
    - label_details
    - rules_creation_details
  meta_datagen_extras:
""",
            "utf-8",
        )
        code, printed = run(str(config))
    assert code in (0, 3), printed
    assert any("test texts" in note for note in case.report["notes"]), "ten test texts call for a warning"
    check_notebooks(case)
    lines = (case.output / "classifiers" / "meta_datagen" / "meta_dataset.jsonl").read_text("utf-8").splitlines()
    kinds = [json.loads(line)["detail_key"] for line in lines]
    assert kinds.count("rules_creation_details") == 1
    assert kinds.count("label_details") == 10 + case.report["iterations"][-1]["labels"]
    assert "not found" in (case.output / "notebooks" / "02_rules.ipynb").read_text("utf-8")


def test_papermill_with_the_sections_as_parameters_replaces_the_config(make_case: MakeCase) -> None:
    case = make_case(["not spam", "spam"], [70, 70])
    with ChatServer(case.answer) as server:
        sections = case.sections(server.url)
        for name in ("01_ingest", "02_rules"):
            papermill.execute_notebook(
                ROOT / "notebooks" / f"{name}.ipynb", case.folder / "out.ipynb", parameters=sections, progress_bar=False
            )
    assert pd.read_parquet(case.output / "chunks.parquet")["text"].isin(case.truth).all()
    assert "Go by the words" in (case.output / "classifiers" / "rules_creation_generation.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api": {"large_api_key": SECRET}}, r"Write \$\{NAME\}"),
        ({"extra_section": {"a": 1}}, "Unknown parameter or section: extra_section"),
        ({"training": {"max_iter": 3}}, "Did you mean max_iters"),
    ],
)
def test_papermill_with_faulty_parameters_stops_at_the_first_cell(
    make_case: MakeCase, changes: dict[str, Any], message: str
) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    sections = case.sections("http://127.0.0.1:9/v1", **changes)
    with pytest.raises(papermill.PapermillExecutionError, match=message) as caught:
        papermill.execute_notebook(
            ROOT / "notebooks" / "01_ingest.ipynb", case.folder / "out.ipynb", parameters=sections, progress_bar=False
        )
    assert caught.value.ename == "ConfigError"
    assert not case.output.exists()


def missing_folder(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"path": {"input_dir": str(case.folder / "nowhere")}}


def empty_folder(case: Case, server: ChatServer) -> dict[str, Any]:
    (case.folder / "empty").mkdir()
    return {"path": {"input_dir": str(case.folder / "empty")}}


def one_folder(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"path": {"output_dir": str(case.folder / "texts")}}


def missing_truth(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"path": {"truth": str(case.folder / "nowhere.csv")}}


def truth_of_another_task(case: Case, server: ChatServer) -> dict[str, Any]:
    (case.folder / "truth.csv").write_text("source,position,label\nrows.jsonl,0,ham\n")
    return {"path": {"truth": str(case.folder / "truth.csv")}}


def missing_human_labels(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"path": {"human_labels": str(case.folder / "nowhere.csv")}}


def truth_of_other_texts(case: Case, server: ChatServer) -> dict[str, Any]:
    (case.folder / "truth.csv").write_text("source,position,label\nanother file.txt,0,spam\n")
    return {"path": {"truth": str(case.folder / "truth.csv")}, "training": {"test_set_size": 20}}


def human_labels_of_other_texts(case: Case, server: ChatServer) -> dict[str, Any]:
    (case.folder / "mine.csv").write_text("text,label\nanother text,spam\n")
    return {"path": {"human_labels": str(case.folder / "mine.csv")}, "training": {"test_set_size": 20}}


def output_that_cannot_be_made(case: Case, server: ChatServer) -> dict[str, Any]:
    case.output.mkdir()
    (case.output / "notebooks").write_text("a file")
    return {}


def wrong_key(case: Case, server: ChatServer) -> dict[str, Any]:
    server.key = "another key"
    return {}


def unknown_model(case: Case, server: ChatServer) -> dict[str, Any]:
    server.models = ["large"]
    return {}


def unreachable(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"api": {"small_base_url": "http://127.0.0.1:9/v1"}}


def one_class(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"classification": {"classes": ["spam"]}}


def large_test_set(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"training": {"test_set_size": 500}}


def key_not_set(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"api": {"large_api_key": "${NOT_SET_ANYWHERE}"}}


def no_such_model(case: Case, server: ChatServer) -> dict[str, Any]:
    return {"training": {"model_path": "nobody/no-such-model"}}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (missing_folder, "is not a folder"),
        (empty_folder, "holds no files"),
        (one_folder, "is path.input_dir too"),
        (missing_truth, "nowhere.csv could not be read"),
        (truth_of_another_task, "not classes: 'ham'"),
        (truth_of_other_texts, "no source and position"),
        (missing_human_labels, "nowhere.csv could not be read"),
        (human_labels_of_other_texts, "no text has this text: 'another text'"),
        (output_that_cannot_be_made, "notebooks cannot be made"),
        (wrong_key, "api.large_api_key"),
        (unknown_model, "api.small_model"),
        (unreachable, "api.small_base_url"),
        (one_class, "at least two classes"),
        (large_test_set, "There are 80 chunks"),
        (key_not_set, "NOT_SET_ANYWHERE is not set"),
        (no_such_model, "nobody/no-such-model"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_paid_for(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., dict[str, Any]], message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    case = make_case(["not spam", "spam"], [40, 40])
    with ChatServer(case.answer) as server:
        code, printed = run(str(case.write(server.url, **mistake(case, server))))
        assert code == 1, printed
        assert message in printed
        assert "Traceback" not in printed
        assert SECRET not in printed
        assert not [body for body in server.requests if shown_text(body["messages"]) is not None]


@pytest.mark.parametrize(
    "mistake",
    [missing_folder, empty_folder, one_folder, missing_truth, truth_of_another_task, missing_human_labels],
)
def test_a_wrong_path_is_found_before_an_llm_is_tried_or_a_file_written(
    make_case: MakeCase, mistake: Callable[..., dict[str, Any]]
) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    with ChatServer(case.answer) as server:
        config = case.write(server.url, **mistake(case, server))
        before = sorted(case.folder.rglob("*"))
        assert run(str(config))[0] == 1
        assert server.requests == []
    assert sorted(case.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("stage", "mistake"), [("01_ingest", one_folder), ("02_rules", missing_truth), ("04_train", missing_truth)]
)
def test_a_notebook_opened_by_hand_finds_a_wrong_path_before_it_writes(
    make_case: MakeCase, stage: str, mistake: Callable[..., dict[str, Any]]
) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    with ChatServer(case.answer) as server:
        config = case.write(server.url, **mistake(case, server))
    before = sorted(case.folder.rglob("*"))
    with pytest.raises(ConfigError, match=r"^path\."):
        open_run(stage, {"config_path": str(config)})
    assert sorted(case.folder.rglob("*")) == before


def test_a_cell_that_opens_the_run_may_be_run_again(make_case: MakeCase) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    variables: dict[str, Any] = {"config_path": str(case.write("http://127.0.0.1:9/v1"))}
    run_of = open_run("01_ingest", variables)
    variables["training"] = run_of.config.training  # as notebook 3 calls it
    assert open_run("01_ingest", variables).config == run_of.config


@pytest.mark.parametrize(
    ("changed", "training", "sizes"),
    [
        (None, {}, []),
        ("02_rules", {}, ["large", "small"]),
        ("03_test_labels", {}, ["large", "small"]),
        ("03_test_labels", {"test_labeler": "small"}, ["small"]),
        ("04_train", {}, ["large", "small"]),
        ("04_train", {"test_labeler": "small"}, ["small"]),
        ("05_predict", {}, []),
    ],
)
def test_only_the_llms_that_will_be_asked_are_tried(
    make_case: MakeCase,
    monkeypatch: pytest.MonkeyPatch,
    changed: str | None,
    training: dict[str, Any],
    sizes: list[str],
) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    tried: list[str] = []
    monkeypatch.setattr(suite, "what_changed", lambda stage, *_: ["code"] if stage.name == changed else [])
    monkeypatch.setattr(suite, "check_llms", lambda *_, sizes: tried.extend(sizes))
    monkeypatch.setattr(suite, "_execute", lambda *_: None)
    monkeypatch.setattr(suite, "summarize", lambda *_, **__: 0)
    suite.run_suite(case.write("http://127.0.0.1:9/v1", training=training), say=lambda line: None)
    assert tried == sizes


REPORT = {
    "status": "target_reached",
    "target": 0.9,
    "stop_rule": "accuracy",
    "iterations": [{"labels": 60, "test_size": 50}],
    "final": {"classifier": "classifier_1", "accuracy": 0.98, "accuracy_low": 0.894, "accuracy_high": 1.0},
    "claim": {"lower_bound": 0.912, "confidence": 0.95, "looks": 2},
    "llm": {"calls": 3, "cost_usd": None},
    "notes": [],
}


@pytest.mark.parametrize(
    ("changes", "config", "said", "unsaid"),
    [
        ({}, {}, "predictions.csv", "lower bound"),
        ({}, {}, "report.html, and the figures in report.json", "lower bound"),
        ({"stop_rule": "lower_bound"}, {}, "which decides   0.912  (95% sure, looks at the test set: 2)", "truth"),
        ({}, {"predict_on_whole_set_at_the_end": False}, "classifier_1", "predictions.csv"),
    ],
)
def test_the_summary_says_what_decided_and_names_only_what_this_run_made(
    make_config: Callable[..., Config], changes: dict[str, Any], config: dict[str, Any], said: str, unsaid: str
) -> None:
    made = make_config(classification=config)
    folder = RunFolder(made.path.output_dir)
    write_text(folder.predictions / "predictions.csv", "of an earlier run")
    write_json(folder.report, {**REPORT, **changes})
    lines: list[str] = []
    assert suite.summarize(made, folder, say=lines.append) == 0
    assert said in "\n".join(lines)
    assert unsaid not in "\n".join(lines)


def test_a_summary_of_nothing_is_one_sentence(make_config: Callable[..., Config]) -> None:
    config = make_config()
    folder = RunFolder(config.path.output_dir)
    write_json(folder.report, {**REPORT, "iterations": [], "final": None})
    with pytest.raises(RunFolderError, match="Run 04_train first"):
        suite.summarize(config, folder)


def test_json_config_overrides_from_and_a_failure_that_is_mended(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(["not spam", "spam"], [100, 60])
    in_the_way = RunFolder(case.output).predictions
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file")
    with ChatServer(case.answer) as server:
        config = case.folder / "config.json"
        config.write_text(json.dumps(case.sections(server.url)), "utf-8")
        changes = ["--set", "training.test_set_size=40", "--set", "training.max_iters=1"]
        code, printed = run(str(config), *changes)
        assert code == 1
        assert f"{in_the_way.name}" in printed
        assert case.report["status"] == "failed"
        assert case.report["iterations"][0]["test_size"] == 40
        before = server.calls
        in_the_way.unlink()
        monkeypatch.delenv("NBHELPERS_TEST_KEY")  # no LLM is asked from here on
        code, printed = run(str(config), *changes)
        assert code == 0, printed
        assert printed.count("up to date") == 4
        assert "did NOT reach" not in (case.output / "notebooks" / "05_predict.ipynb").read_text("utf-8")
        assert case.report["status"] == "target_reached"
        assert "failure" not in case.report
        code, printed = run(str(config), *changes, "--from", "05")
        assert code == 0, printed
        assert "05_predict: running (asked for)" in printed
        assert server.calls == before


@pytest.mark.parametrize(
    ("failures", "message", "tried", "expected"),
    [
        (
            1,
            "Kernel died before replying to kernel_info",
            2,
            "path.truth",
        ),  # its port had been taken: the next start works
        (9, "Kernel died before replying to kernel_info", 3, "Start again"),
        (9, "Kernel died", 1, "Start again"),
    ],
)
def test_a_kernel_that_could_not_start_is_started_again(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch, failures: int, message: str, tried: int, expected: str
) -> None:
    case = make_case(["not spam", "spam"], [5, 5])
    attempts: list[str] = []

    def start(notebook: str, *_: object, **__: object) -> None:
        attempts.append(notebook)
        if len(attempts) <= failures:
            raise RuntimeError(message)
        raise papermill.PapermillExecutionError(1, 1, "", "ConfigError", "path.truth is not a file", [])

    with ChatServer(case.answer) as server:
        config = case.write(server.url)
        monkeypatch.setattr(papermill, "execute_notebook", start)
        code, printed = run(str(config))
    assert code == 1
    assert expected in printed
    assert len(attempts) == tried
