"""The steps: what was changed is named, and makes stale what depends on it and nothing else."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import ChatServer, keyword_labeller
from runs_made import WORDS, WordFits, prepare, texts_of, write_rows

from nbhelpers import stages
from nbhelpers.config import Config
from nbhelpers.errors import NbhelpersError, RunFolderError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import read_test_labels, write_test_labels
from nbhelpers.prediction import how_good, predict_all
from nbhelpers.prompt_files import LABEL_PROMPT, RULES_PROMPT
from nbhelpers.rounds import Rounds
from nbhelpers.run_folder import RunFolder, write_json
from nbhelpers.stages import STAGES, Stage, begin, find_stage, finish, note_failure, what_changed

Finish = Callable[..., Config]
NAMES = ["01_ingest", "02_rules", "03_test_labels", "04_train", "05_predict"]
UP_TO_DATE: dict[str, list[str]] = {name: [] for name in NAMES}


@pytest.fixture(autouse=True)
def code_is_read_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing the package takes a moment, and only some tests are about it."""
    if "code" not in request.node.name:
        monkeypatch.setattr(stages, "_code", lambda notebook: notebook.name)


@pytest.fixture
def finished(
    make_config: Callable[..., Config],
    run: RunFolder,
    store: LabelStore,
    tiny_base_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Finish]:
    """`finished()`: all five steps are done and have left their stamps; the config comes back.

    `finished(training={...})` afterwards gives a changed config for the same folder, and does nothing.
    """
    WordFits().install(monkeypatch)
    with ChatServer(keyword_labeller(WORDS)) as server:

        def finish_all(**changes: dict[str, Any]) -> Config:
            training = {"train_set_size": 15, "train_set_increment": 5, "test_set_size": 15, "max_iters": 1}
            changes["training"] = {"model_path": str(tiny_base_model), **training, **changes.get("training", {})}
            config = make_config(server.url, **changes)
            if not config.path.input_dir.exists():
                write_rows(config.path.input_dir, texts_of(dict.fromkeys(WORDS, 12)))
            if not run.stages.exists():
                prepare(config, run, store)
                Rounds(config, run, store).run_until_done()
                predict_all(config, run, store)
                run.page.touch()  # drawing its figures takes a moment
                for stage in STAGES:
                    stamp(stage, config, run)
            return config

        yield finish_all


def stamp(stage: Stage, config: Config, run: RunFolder) -> None:
    """The step begins and finishes."""
    finish(stage, run, begin(stage, config, run))


def changed(config: Config, run: RunFolder) -> dict[str, list[str]]:
    return {stage.name: what_changed(stage, config, run) for stage in STAGES}


def stale(config: Config, run: RunFolder) -> set[str]:
    """The first digits of the steps that have to run."""
    return {name[1] for name, changes in changed(config, run).items() if changes}


def other(path: Path) -> None:
    """Puts another time on a file, as an editor would on saving."""
    then = path.stat().st_mtime_ns + 5_000_000_000
    os.utime(path, ns=(then, then))


# Steps by name


@pytest.mark.parametrize(
    ("name", "found"),
    [("3", "03_test_labels"), ("03", "03_test_labels"), ("03_test_labels", "03_test_labels"), ("1", "01_ingest")],
)
def test_a_step_is_found_by_number_or_name(name: str, found: str) -> None:
    assert find_stage(name).name == found


@pytest.mark.parametrize("name", ["6", "0", "", "train", "03_train", "003", "-1"])
def test_an_unknown_step_is_an_error_that_lists_the_steps(name: str) -> None:
    with pytest.raises(RunFolderError, match=f"no step '{name}'.*{', '.join(NAMES)}"):
        find_stage(name)


def test_the_steps_are_the_notebooks() -> None:
    assert [stage.name for stage in STAGES] == NAMES
    assert all(stage.notebook.is_file() for stage in STAGES)


def test_without_the_notebooks_the_error_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "repository_root", lambda: tmp_path)
    with pytest.raises(RunFolderError, match=r"01_ingest\.ipynb not found\. Run from a clone"):
        STAGES[0].notebook  # noqa: B018


def test_every_key_of_a_step_is_one_of_the_config(make_config: Callable[..., Config]) -> None:
    values = make_config().model_dump()
    for stage in STAGES:
        for key in stage.keys:
            section, _, name = key.partition(".")
            assert section in values
            assert not name or name in values[section], key


# Up to date or not


def test_a_step_that_was_never_run_says_so(make_config: Callable[..., Config], run: RunFolder) -> None:
    assert changed(make_config(), run) == {name: ["not finished yet"] for name in NAMES}


def test_all_is_up_to_date_after_the_end(finished: Finish, run: RunFolder) -> None:
    assert changed(finished(), run) == UP_TO_DATE


def test_each_step_has_its_own_stamp(finished: Finish, run: RunFolder) -> None:
    config = finished()
    stamps = json.loads(run.stages.read_text("utf-8"))
    assert list(stamps) == NAMES
    del stamps["03_test_labels"]
    write_json(run.stages, stamps)
    assert changed(config, run) == {**UP_TO_DATE, "03_test_labels": ["not finished yet"]}
    stamp(find_stage("3"), config, run)
    assert changed(config, run) == UP_TO_DATE


def test_the_same_steps_once_more_leave_all_up_to_date(finished: Finish, run: RunFolder, store: LabelStore) -> None:
    config = finished()
    prepare(config, run, store)
    Rounds(config, run, store).run_until_done()
    predict_all(config, run, store)
    assert changed(config, run) == UP_TO_DATE


# Begun, and not finished


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_was_begun_is_stale_until_it_finishes(finished: Finish, run: RunFolder, name: str) -> None:
    config = finished()
    read = begin(find_stage(name), config, run)
    assert changed(config, run) == {**UP_TO_DATE, name: ["not finished yet"]}
    finish(find_stage(name), run, read)
    assert changed(config, run) == UP_TO_DATE


def test_what_changes_while_a_step_is_at_work_makes_it_stale(
    finished: Finish, run: RunFolder, store: LabelStore
) -> None:
    config = finished()
    read = {name: begin(find_stage(name), config, run) for name in ("01_ingest", "04_train")}
    write_rows(config.path.input_dir, texts_of({"goal": 5}, seed=3), name="more.jsonl")
    store.set_human_label(store.selected()[0], "weather")
    for name, seen in read.items():
        finish(find_stage(name), run, seen)
    found = changed(config, run)
    assert (found["01_ingest"], found["04_train"]) == (["files"], ["human_labels"])


@pytest.mark.parametrize(
    ("report", "stale"),
    [
        ({"status": "running"}, True),
        ({"status": "converged"}, False),
        ({"status": "budget"}, False),
        ({"final": None}, True),
    ],
)
def test_training_is_done_where_the_report_says_how_it_ended(
    finished: Finish, run: RunFolder, report: dict[str, Any], stale: bool
) -> None:
    config = finished()
    write_json(run.report, {**json.loads(run.report.read_text("utf-8")), **report})
    expected = {**UP_TO_DATE, "04_train": ["not finished yet"] if stale else []}
    assert changed(config, run) == expected
    note_failure(find_stage("4"), config, run, NbhelpersError("no luck"))  # which says nothing about it
    assert changed(config, run) == expected


def test_a_failed_step_leaves_the_training_done_and_is_forgotten_when_it_begins_again(
    finished: Finish, run: RunFolder
) -> None:
    config = finished()
    before = json.loads(run.report.read_text("utf-8"))
    for _ in range(2):
        note_failure(find_stage("5"), config, run, NbhelpersError("no luck"))
    failed = json.loads(run.report.read_text("utf-8"))
    assert (failed["status"], failed["failure"]["error"]) == ("failed", "no luck")
    assert what_changed(find_stage("4"), config, run) == []
    begin(find_stage("5"), config, run)
    assert json.loads(run.report.read_text("utf-8")) == before
    assert "reached the target of 0.90 (target_reached)" in how_good(run)


def test_a_report_of_nothing_but_a_failure_is_forgotten_whole(
    make_config: Callable[..., Config], run: RunFolder
) -> None:
    config = make_config()
    note_failure(find_stage("2"), config, run, NbhelpersError("no luck"))
    assert json.loads(run.report.read_text("utf-8"))["status"] == "failed"
    begin(find_stage("2"), config, run)
    assert not run.report.exists()


# Files


def test_files_that_were_touched_added_or_renamed(finished: Finish, run: RunFolder) -> None:
    config = finished()
    ours = config.path.input_dir / "rows.jsonl"
    before = ours.stat()
    other(ours)
    assert changed(config, run) == {**UP_TO_DATE, "01_ingest": ["files"]}
    os.utime(ours, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed(config, run) == UP_TO_DATE
    added = config.path.input_dir / "deep" / "more.txt"
    added.parent.mkdir()
    added.write_text("More of it.")
    assert changed(config, run) == {**UP_TO_DATE, "01_ingest": ["files"]}
    added.unlink()
    assert changed(config, run) == UP_TO_DATE
    ours.rename(ours.with_name("renamed.jsonl"))
    assert changed(config, run) == {**UP_TO_DATE, "01_ingest": ["files"]}


def test_a_broken_link_among_the_files_is_no_error(finished: Finish, run: RunFolder) -> None:
    config = finished()
    (config.path.input_dir / "link.txt").symlink_to("nowhere.txt")
    assert stale(config, run) <= {"1"}


def test_output_inside_the_input_folder_is_no_input(
    finished: Finish, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = finished(path={"output_dir": str(tmp_path / "texts" / "out")})
    run = RunFolder(config.path.output_dir)
    stamp(STAGES[0], config, run)
    (run.root / "report.txt").write_text("made by us")
    before = {path: path.touch() for path in (run.documents, run.chunks, run.occurrences)}
    assert before
    assert what_changed(STAGES[0], config, run) == []


def test_texts_inside_the_output_folder_are_watched_all_the_same(finished: Finish, tmp_path: Path) -> None:
    config = finished(path={"output_dir": str(tmp_path)})
    run = RunFolder(tmp_path)
    for path in (run.documents, run.chunks, run.occurrences):
        path.touch()
    stamp(STAGES[0], config, run)
    assert what_changed(STAGES[0], config, run) == []
    other(tmp_path / "texts" / "rows.jsonl")
    assert what_changed(STAGES[0], config, run) == ["files"]


def test_new_texts_make_all_after_ingest_stale_once_it_has_run(
    finished: Finish, run: RunFolder, store: LabelStore
) -> None:
    config = finished()
    write_rows(config.path.input_dir, texts_of({"goal": 5}, seed=3), name="more.jsonl")
    prepare(config, run, store)
    stamp(STAGES[0], config, run)
    found = changed(config, run)
    assert found["01_ingest"] == found["02_rules"] == []
    assert found["03_test_labels"] == found["04_train"] == ["chunks"]
    assert {"chunks", "occurrences"} <= set(found["05_predict"])


# The config


# What a changed key makes stale, as the steps' first digits.
DEPENDS = [
    ("path", "text_column", "body", "1"),
    ("system", "chunk_size", 500, "1"),
    ("system", "use_subset", True, "1"),
    ("training", "truncation_type", "head", "14"),
    ("api", "large_model", "bigger", "234"),
    ("api", "small_model", "less", "34"),
    ("classification", "desc", "Something else.", "2345"),
    ("classification", "classes", ["sports", "politics", "weather", "chess"], "2345"),
    ("classification", "predict_on_whole_set_at_the_end", False, "5"),
    ("training", "test_set_size", 20, "34"),
    ("training", "max_iters", 4, "34"),
    ("training", "balance", "weights", "4"),
    ("system", "required_accuracy", 0.5, "4"),
    ("system", "stop_rule", "lower_bound", "4"),
    ("system", "seed", 3, "134"),
    ("system", "completion_mode", True, "234"),
    ("cost", "cost_per_million_large_input", 1.0, "45"),
    ("labeling", "cascade", 0.25, "4"),
    ("labeling", "label_samples", 3, "34"),
    ("meta_datagen", "do_meta_datagen", True, "5"),
    ("system", "concurrency_limit", 3, ""),  # how fast, not what
    ("api", "large_base_url", "http://127.0.0.1:9/v1", ""),
    ("api", "small_api_key", "${ANOTHER_KEY}", ""),
]


def test_a_config_key_makes_only_the_steps_stale_that_depend_on_it(finished: Finish, run: RunFolder) -> None:
    finished()
    for section, key, value, steps in DEPENDS:
        found = changed(finished(**{section: {key: value}}), run)
        assert "".join(name[1] for name, changes in found.items() if changes) == steps, f"{section}.{key}"
        assert all("config" in changes for changes in found.values() if changes), f"{section}.{key}"


def test_no_secret_is_kept_in_the_stamps(finished: Finish, run: RunFolder) -> None:
    finished(api={"large_api_key": "sk-writtenOut123"})
    assert "sk-writtenOut123" not in run.stages.read_text("utf-8")


# Rules and prompts


def test_edited_rules_make_all_steps_after_them_stale_and_not_their_own(finished: Finish, run: RunFolder) -> None:
    config = finished()
    made = yaml.safe_load(run.rules.read_text("utf-8"))
    run.rules.write_text(yaml.safe_dump({**made, "rules": made["rules"] + "\n2. Mind the weather."}), "utf-8")
    assert changed(config, run) == {
        "01_ingest": [],
        "02_rules": [],
        "03_test_labels": ["rules"],
        "04_train": ["rules"],
        "05_predict": ["rules"],
    }
    run.rules.write_text(yaml.safe_dump({**made, "rules": made["rules"] + "\n\n"}), "utf-8")  # blank lines at the end
    assert changed(config, run) == UP_TO_DATE


def test_an_edited_rules_file_of_a_person_makes_the_rules_stale(
    finished: Finish, run: RunFolder, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.md"
    rules.write_text("1. By the words.")
    config = finished(classification={"rules_file": str(rules)})
    assert changed(config, run) == UP_TO_DATE
    rules.write_text("1. By the words alone.")
    assert changed(config, run) == {**UP_TO_DATE, "02_rules": ["rules_file"]}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (RULES_PROMPT, {"02_rules": ["prompt"]}),
        (LABEL_PROMPT, {"03_test_labels": ["prompt"], "04_train": ["prompt"], "05_predict": ["prompt"]}),
    ],
)
def test_an_edited_prompt_makes_the_steps_stale_that_ask_with_it(
    finished: Finish, run: RunFolder, tmp_path: Path, name: str, found: dict[str, list[str]]
) -> None:
    ours = Path(stages.__file__).parent / "prompts"
    shutil.copytree(ours, tmp_path / "prompts")
    config = finished(path={"prompts": str(tmp_path / "prompts")})
    assert changed(config, run) == UP_TO_DATE
    file = tmp_path / "prompts" / f"{name}.yaml"
    turns = yaml.safe_load(file.read_text("utf-8"))
    turns[0]["content"] += "\nBe quick."
    file.write_text(yaml.safe_dump(turns), "utf-8")
    assert changed(config, run) == {**UP_TO_DATE, **found}


# What the steps leave


def test_outputs_that_were_deleted_are_named(finished: Finish, run: RunFolder) -> None:
    config = finished()
    for stage, path in [
        ("01_ingest", run.documents),
        ("01_ingest", run.occurrences),
        ("02_rules", run.rules),
        ("03_test_labels", run.test_set),
        ("03_test_labels", run.test_labels),
        ("04_train", run.report),
        ("04_train", run.train_labels),
        ("04_train", run.classifier(1)),
        ("05_predict", run.predictions / "predictions.parquet"),
        ("05_predict", run.predictions / "predictions.csv"),
        ("05_predict", run.predictions / "predictions.jsonl"),
        ("05_predict", run.page),
    ]:
        aside = run.root / "aside"
        path.rename(aside)
        assert what_changed(find_stage(stage), config, run) == [f"{path.name} is not there"]
        aside.rename(path)
    assert changed(config, run) == UP_TO_DATE


def test_predictions_that_were_not_wanted_are_not_missed(finished: Finish, run: RunFolder) -> None:
    config = finished(classification={"predict_on_whole_set_at_the_end": False})
    assert not run.predictions.exists()
    assert changed(config, run) == UP_TO_DATE


def test_another_label_of_a_test_text_makes_training_and_prediction_stale(
    finished: Finish, run: RunFolder, store: LabelStore
) -> None:
    config = finished()
    labels = read_test_labels(run)
    labels.loc[0, "label"] = "weather" if labels.loc[0, "label"] != "weather" else "sports"
    write_test_labels(run, labels, config=config)
    assert changed(config, run) == {**UP_TO_DATE, "04_train": ["test_labels"], "05_predict": ["test_labels"]}


def test_a_label_that_a_person_gave_makes_training_and_prediction_stale(
    finished: Finish, run: RunFolder, store: LabelStore
) -> None:
    config = finished()
    chunk_id = store.selected()[0]
    store.set_human_label(chunk_id, "weather")
    assert changed(config, run) == {**UP_TO_DATE, "04_train": ["human_labels"], "05_predict": ["human_labels"]}
    store.undo_human_label({chunk_id})
    assert changed(config, run) == UP_TO_DATE


def test_another_classifier_makes_the_predictions_stale(finished: Finish, run: RunFolder, store: LabelStore) -> None:
    config = finished()
    rounds = Rounds(config, run, store)
    rounds.step()
    rounds.step()  # one more by hand
    assert run.iterations() == [1, 2]
    assert changed(config, run) == {**UP_TO_DATE, "05_predict": ["classifier", "report", "train_labels"]}


def test_the_truth_is_an_input_of_the_predictions(finished: Finish, run: RunFolder, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("source,position,label\nrows.jsonl,0,sports\n")
    config = finished(path={"truth": str(truth)})
    assert changed(config, run) == UP_TO_DATE
    truth.write_text("source,position,label\nrows.jsonl,0,weather\n")
    assert changed(config, run) == {**UP_TO_DATE, "05_predict": ["truth"]}


def test_a_damaged_stamp_file_is_an_error_that_says_what_to_do(finished: Finish, run: RunFolder) -> None:
    config = finished()
    run.stages.write_text("{", "utf-8")
    with pytest.raises(NbhelpersError, match=r"stages\.json cannot be read .* delete it"):
        what_changed(STAGES[0], config, run)


# The code


def test_code_changes_count_and_prose_does_not(
    make_config: Callable[..., Config], run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "clone"
    shutil.copytree(stages.repository_root() / "notebooks", repository / "notebooks")
    shutil.copytree(Path(stages.__file__).parent, repository / "nbhelpers")
    monkeypatch.setattr(stages, "repository_root", lambda: repository)
    monkeypatch.setattr(stages, "__file__", str(repository / "nbhelpers" / "stages.py"))
    config = make_config()
    write_rows(config.path.input_dir, ["goal"])
    for path in (run.documents, run.chunks, run.occurrences):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    stamp(STAGES[0], config, run)
    notebook, module = repository / "notebooks" / "01_ingest.ipynb", repository / "nbhelpers" / "ingest.py"

    def edit(kind: str, line: str, *, cell: int = 0) -> None:
        content = json.loads(notebook.read_text("utf-8"))
        [c for c in content["cells"] if c["cell_type"] == kind][cell]["source"].append(f"\n{line}")
        notebook.write_text(json.dumps(content), "utf-8")

    edit("markdown", "more = 1")
    edit("code", 'config_path: str = "params/mine.yaml"')  # of the parameters
    edit("code", "# one more line", cell=1)
    text = module.read_text("utf-8").replace('"""The chunks of one file', '"""All the chunks of one file')
    module.write_text(f'"""Another docstring."""\n{text.split(chr(34) * 3, 2)[2]}\n\n# a comment\n', "utf-8")
    assert what_changed(STAGES[0], config, run) == []
    edit("code", "%matplotlib inline", cell=1)
    assert what_changed(STAGES[0], config, run) == ["code"]
    stamp(STAGES[0], config, run)
    assert what_changed(STAGES[0], config, run) == []
    module.write_text(module.read_text("utf-8") + "\nADDED = 1\n", "utf-8")
    assert what_changed(STAGES[0], config, run) == ["code"]
