"""The output folder: the old file or the new one, and errors that name what to run."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.errors import RunFolderError
from nbhelpers.run_folder import RunFolder, write_json, write_table, write_text, write_yaml

WRITERS: list[tuple[Callable[[Path, Any], None], Any, Any]] = [
    (write_text, "old", "new"),
    (write_json, {"a": 1}, {"a": 2}),
    (write_yaml, {"a": "old"}, {"a": "new"}),
    (write_table, pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})),
]
HALF = "\ud83d"  # of an emoji: no text that UTF-8 can hold


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_comparison_with_people_is_of_one_training_of_one_classifier(tmp_path: Path) -> None:
    run, found = RunFolder(tmp_path), {"against the truth": {"share": 0.9}}
    for number in (1, 2):
        write_json(run.classifier(number) / "training.json", {"number": number})
    assert run.read_truth_shares("classifier_1") == {}
    run.write_truth_shares(1, found)
    assert run.read_truth_shares("classifier_1") == found
    assert run.read_truth_shares("classifier_2") == run.read_truth_shares("classifier_3") == {}
    write_json(run.classifier(1) / "training.json", {"number": 1, "again": True})
    assert run.read_truth_shares("classifier_1") == {}


# Names


def test_the_names_are_those_that_people_rely_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    paths = {
        run.report: "report.json",
        run.notebooks: "notebooks",
        run.labels: "labels.sqlite",
        run.chunks: "chunks.parquet",
        run.documents: "documents.parquet",
        run.classifier(12): "classifiers/classifier_12",
        run.dataset(12): "classifiers/datasets/dataset_12.jsonl",
        run.rules: "classifiers/rules_creation_generation.yaml",
        run.test_labels: "classifiers/truth_labels_classification/llm_classifications.yaml",
        run.predictions: "classifiers/final_classifier_output",
        run.meta_dataset: "classifiers/meta_datagen/meta_dataset.jsonl",
    }
    for path, name in paths.items():
        assert path == tmp_path / name
    assert names(tmp_path) == []  # made on first write


def test_iterations_are_numbers_in_order(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.iterations() == []
    for name in ["classifier_10", "classifier_2", "classifier_1", "classifier_3.part", "classifier_", "classifier_x"]:
        (run.classifiers / name).mkdir(parents=True)
    (run.classifiers / ".classifier_4.part").mkdir()
    assert run.iterations() == [1, 2, 10]


def made_iterations(root: Path, numbers: list[int]) -> RunFolder:
    run = RunFolder(root)
    for number in numbers:
        write_text(run.classifier(number) / "config.json", str(number))
        write_text(run.dataset(number), f"rows of {number}\n")
    return run


def test_iterations_from_a_number_on_are_forgotten_with_their_datasets(tmp_path: Path) -> None:
    run = made_iterations(tmp_path, [1, 2, 3])
    run.dataset(3).unlink()  # a run may be killed between the two
    assert run.forget_iterations(2) == [2, 3]
    assert run.iterations() == [1]
    assert [path.name for path in run.datasets.iterdir()] == ["dataset_1.jsonl"]


def test_a_copied_iteration_takes_the_place_of_what_bore_its_number(tmp_path: Path) -> None:
    run = made_iterations(tmp_path, [1, 2])
    write_text(run.classifier(2) / "left_over.txt", "of 2")
    run.copy_iteration(1, to=2)
    assert run.iterations() == [1, 2]
    assert [path.name for path in run.classifier(2).iterdir()] == ["config.json"]
    assert (run.classifier(2) / "config.json").read_text("utf-8") == "1"
    assert run.dataset(2).read_text("utf-8") == "rows of 1\n"


def test_a_run_is_named_as_people_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert RunFolder(tmp_path / "here" / "runs" / "demo").name == str(Path("runs/demo"))
    assert RunFolder(tmp_path / "elsewhere").name == str(tmp_path / "elsewhere")


# Writing


@pytest.mark.parametrize(("write", "old", "new"), WRITERS)
def test_a_write_makes_its_folder_and_replaces_the_file(
    tmp_path: Path, write: Callable[[Path, Any], None], old: Any, new: Any
) -> None:
    file = tmp_path / "a" / "b" / "file"
    write(file, old)
    before = file.read_bytes()
    write(file, new)
    assert file.read_bytes() != before
    assert names(file.parent) == ["file"]
    write(file, old)
    assert file.read_bytes() == before


@pytest.mark.parametrize(("write", "old", "new"), WRITERS)
def test_a_write_that_is_killed_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Any], None], old: Any, new: Any
) -> None:
    file = tmp_path / "file"
    write(file, old)
    before = file.read_bytes()
    seen = []

    def killed(self: Path, target: Path) -> None:
        seen.append((file.read_bytes() == before, self.parent == file.parent, self.stat().st_size > 0))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(file, new)
    assert seen == [(True, True, True)]  # the new one was complete beside it, the old one as it was
    assert file.read_bytes() == before
    assert names(tmp_path) == ["file"]


class FullDisk:
    """A table that breaks off in the middle of being written."""

    def to_parquet(self, path: Path, *, index: bool) -> None:
        path.write_bytes(b"PAR1 and half of the rest")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "chunks.parquet"
    write_table(file, pd.DataFrame({"a": [1]}))
    with pytest.raises(RunFolderError) as raised:
        write_table(file, FullDisk())  # type: ignore[arg-type]
    assert str(raised.value) == (
        f"{file} cannot be written (No space left on device). Change path.output_dir, or make room."
    )
    assert pd.read_parquet(file)["a"].tolist() == [1]
    assert names(tmp_path) == ["chunks.parquet"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_nan_and_the_old_file_stays(tmp_path: Path, value: float) -> None:
    file = tmp_path / "report.json"
    write_json(file, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"accuracy": 0.6, "rows": [{"f1": value}]})
    assert json.loads(file.read_text("utf-8")) == {"accuracy": 0.5}
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize(("write", "content"), [(write_text, HALF), (write_json, {"rules": HALF})])
def test_what_cannot_be_encoded_leaves_the_old_file(
    tmp_path: Path, write: Callable[[Path, Any], None], content: Any
) -> None:
    file = tmp_path / "file"
    file.write_text("old", "utf-8")
    with pytest.raises(UnicodeEncodeError):
        write(file, content)
    assert file.read_text("utf-8") == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("write", "old", "new"), WRITERS)
def test_an_unwritable_folder_says_which_and_what_to_change(
    tmp_path: Path, write: Callable[[Path, Any], None], old: Any, new: Any
) -> None:
    (tmp_path / "runs").write_text("a file in the way", "utf-8")
    file = tmp_path / "runs" / "x" / "file"
    with pytest.raises(RunFolderError) as raised:
        write(file, new)
    message = str(raised.value)
    assert message.startswith(f"{file} cannot be written (")
    assert message.endswith("). Change path.output_dir, or make room.")
    assert (tmp_path / "runs").read_text("utf-8") == "a file in the way"


def test_a_folder_where_the_file_belongs_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_json(tmp_path / "report.json", {})
    assert names(tmp_path) == ["report.json"]


# Round trips

ODD = [
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\x00",
    "\x1b",
    "\x7f",
    "\xa0",
    "\t",
    "\r",
    "\r\n",
    "\U0001f600",
    "\U0010ffff",
]
texts = st.lists(
    st.sampled_from(["a", "  ", " ", "\n", "\n\n", "- ", "# ", ": ", "'", '"', "---", "|", *ODD]) | st.text()
)


@given(texts.map("".join), texts.map("".join))
def test_yaml_gives_back_any_text(tmp_path_factory: pytest.TempPathFactory, rules: str, key: str) -> None:
    run = RunFolder(tmp_path_factory.mktemp("yaml"))
    content = {"rules": rules, "labels": [{"text": rules, "label": None, "ok": True}], "more": {key: rules}}
    write_yaml(run.rules, content)
    assert run.read_yaml(run.rules, made_by="02_rules") == content


@pytest.mark.parametrize("odd", ODD)
def test_yaml_gives_back_odd_characters_wherever_they_stand(tmp_path: Path, odd: str) -> None:
    content = {
        str(i): text for i, text in enumerate([odd, f"a{odd}b", f"a\n{odd}b", f"a{odd}\nb\n", f"{odd}a\nb{odd}"])
    }
    write_yaml(tmp_path / "f.yaml", content)
    assert RunFolder(tmp_path).read_yaml(tmp_path / "f.yaml", made_by="02_rules") == content


def test_yaml_holds_texts_of_several_lines_as_blocks_that_a_person_can_edit(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_yaml(run.rules, {"written_by": "large LLM", "rules": '1. "Spam": ads, größere.\n\n  2. Else: ham # or so\n'})
    text = run.rules.read_text("utf-8")
    assert text == 'written_by: large LLM\nrules: |\n  1. "Spam": ads, größere.\n\n    2. Else: ham # or so\n'
    run.rules.write_text(text.replace("größere.", "größere.\n  A third rule."), "utf-8")
    edited = run.read_yaml(run.rules, made_by="02_rules")
    assert edited["rules"] == '1. "Spam": ads, größere.\nA third rule.\n\n  2. Else: ham # or so\n'


@pytest.mark.parametrize("text", ["line with spaces at its end  \nnext", "a\n \nb", "\n  indented", " \n", "a\x85b\nc"])
def test_yaml_keeps_spaces_at_the_ends_of_lines(tmp_path: Path, text: str) -> None:
    write_yaml(tmp_path / "f.yaml", {"rules": text})
    assert RunFolder(tmp_path).read_yaml(tmp_path / "f.yaml", made_by="02_rules") == {"rules": text}
    assert yaml.safe_load((tmp_path / "f.yaml").read_text("utf-8")) == {"rules": text}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_json_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    run = RunFolder(tmp_path_factory.mktemp("json"))
    write_json(run.report, content)
    assert run.read_json(run.report, made_by="04_train") == content


def test_json_is_readable_as_text(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"desc": "größer", "n": 1})
    assert (tmp_path / "f.json").read_text("utf-8") == '{\n  "desc": "größer",\n  "n": 1\n}\n'


def test_a_table_comes_back_with_its_missing_labels(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_table(run.chunks, pd.DataFrame({"text": ["ä", ""], "label": ["0", None], "n": [0, 1]}, index=[5, 9]))
    table = run.read_table(run.chunks, made_by="01_ingest")
    assert table.index.tolist() == [0, 1]
    assert table["text"].tolist() == ["ä", ""]
    assert table["label"].tolist()[0] == "0"
    assert table["label"].isna().tolist() == [False, True]


# Reading what is not there, or not whole


@pytest.mark.parametrize("reader", ["read_table", "read_json", "read_yaml", "require"])
def test_what_is_missing_names_the_notebook_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "demo")
    with pytest.raises(RunFolderError) as raised:
        getattr(run, reader)(run.test_labels, made_by="03_test_labels")
    where = Path("runs/demo")
    assert str(raised.value) == f"llm_classifications.yaml not found in {where}. Run 03_test_labels first."


@pytest.mark.parametrize(
    ("reader", "content", "said"),
    [
        ("read_table", b"", "Delete it and run 01_ingest again."),
        ("read_table", b"PAR1 but not really", "Delete it and run 01_ingest again."),
        ("read_json", b"", "Mend it, or delete it and run 01_ingest."),
        ("read_json", b'{"a": 1', "Mend it, or delete it and run 01_ingest."),
        ("read_json", b'{"a": "\xff"}', "Mend it, or delete it and run 01_ingest."),
        ("read_json", b"[1, 2]", "does not hold what it should. Delete it and run 01_ingest again."),
        ("read_yaml", b"rules: [a", "Mend it, or delete it and run 01_ingest."),
        ("read_yaml", b"rules: |\n  a\n b\n", "line 3, column 2"),
        ("read_yaml", b"when: 2026-13-01", "Mend it, or delete it and run 01_ingest."),
        ("read_yaml", b"rules: \xff", "Mend it, or delete it and run 01_ingest."),
        ("read_yaml", b"", "does not hold what it should. Delete it and run 01_ingest again."),
        ("read_yaml", b"- a", "does not hold what it should. Delete it and run 01_ingest again."),
    ],
)
def test_what_is_damaged_names_the_file_and_the_notebook(
    tmp_path: Path, reader: str, content: bytes, said: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(RunFolderError) as raised:
        getattr(RunFolder(tmp_path), reader)(file, made_by="01_ingest")
    assert str(raised.value).startswith(f"{file} ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_cut_short_is_damaged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_table(run.chunks, pd.DataFrame({"a": range(1000)}))
    run.chunks.write_bytes(run.chunks.read_bytes()[:-50])
    with pytest.raises(RunFolderError, match="is damaged"):
        run.read_table(run.chunks, made_by="01_ingest")
