"""Ingest: every file ends as a row, every text as a chunk, and nothing that one file holds stops the others."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest
from documents_made import docx, encrypted_pdf, para, pdf, pdf_lines
from transformers import T5Config

from nbhelpers import documents
from nbhelpers.chunking import chunk_id, truncate
from nbhelpers.config import Config
from nbhelpers.errors import ClassifierError, ConfigError, ModelNotFoundError
from nbhelpers.ingest import Ingested, ingest, tell_unread
from nbhelpers.run_folder import RunFolder, write_json

GOAL, VOTE, RAIN = "The team won by a late goal.", "The minister lost the vote.", "Rain and snow until noon."
ReadTexts = Callable[..., Ingested]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return tmp_path / "texts"


@pytest.fixture
def read_texts(folder: Path, make_config: Callable[..., Config], run: RunFolder, tiny_base_model: Path) -> ReadTexts:
    """`read_texts({"a.txt": "text"}, system={...})`: writes these files and ingests the folder."""

    def read(files: Mapping[str, str | bytes], **changes: dict[str, object]) -> Ingested:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        changes["training"] = {"model_path": str(tiny_base_model), **changes.get("training", {})}
        return ingest(make_config(**changes), run)

    return read


def jsonl(*rows: Mapping[str, object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def fates(made: Ingested) -> dict[str, str]:
    return dict(zip(made.documents["source"], made.documents["status"], strict=True))


# Documents


def test_every_file_ends_as_a_row_with_its_reason(folder: Path, read_texts: ReadTexts) -> None:
    docx(folder / "word.docx", para(VOTE))
    made = read_texts(
        {
            "plain.txt": GOAL,
            "deep/er/notes.md": f"# Weather\n\n{RAIN}",
            "page.html": "<html><body><p>Sun all day.</p><script>no()</script></body></html>",
            "paper.pdf": pdf(pdf_lines("A law was passed.")),
            "rows.jsonl": jsonl({"text": "row one"}, {"text": "row two"}),
            "table.csv": "text,who\nrow three,me\n",
            "windows.txt": "Der Minister verlor — „knapp“ und überraschend.".encode("cp1252"),
            "empty.txt": "",
            "blank.txt": " \n\t\n",
            "binary.txt": bytes(range(256)) * 20,
            "secret.pdf": encrypted_pdf(pdf(pdf_lines("Hidden.")), user_password="pw"),
            "scan.pdf": pdf(b""),
            "broken.docx": b"PK\x03\x04 no zip",
            "broken.pdf": b"%PDF-1.4 no more",
            "wrong_key.jsonl": jsonl({"body": "x"}),
            "old.doc": b"\xd0\xcf\x11\xe0",
            "photo.JPG": b"\xff\xd8\xff",
            ".hidden": "not a person's file",
        }
    )
    files = made.documents.set_index("source")
    assert files.index.tolist() == sorted(files.index)
    read = [
        "deep/er/notes.md",
        "page.html",
        "paper.pdf",
        "plain.txt",
        "rows.jsonl",
        "table.csv",
        "windows.txt",
        "word.docx",
    ]
    assert files.index[files["status"] == "read"].tolist() == read
    assert set(files.loc[read, "reason"]) == {""}
    skipped = files.drop(index=read)
    assert set(skipped["status"]) == {"skipped"}
    assert ".hidden" not in files.index
    for source, reason in {
        "empty.txt": "empty",
        "blank.txt": "empty",
        "binary.txt": "binary",
        "secret.pdf": "encrypted|password",
        "scan.pdf": "scan|no text",
        "broken.docx": "damaged|not a",
        "broken.pdf": "damaged|not a",
        "wrong_key.jsonl": 'there are "body"; set path.text_column',
        "old.doc": "save it as .docx",
        "photo.JPG": "OCR",
    }.items():
        assert any(part in skipped.loc[source, "reason"] for part in reason.split("|")), skipped.loc[source, "reason"]
    assert len(skipped) == 10
    assert (skipped[["texts", "chunks", "characters"]] == 0).all().all()
    assert files.loc["photo.JPG", "format"] == "jpg"
    assert files.loc["plain.txt", ["bytes", "texts", "characters", "chunks"]].tolist() == [28, 1, 28, 1]
    assert files.loc["rows.jsonl", ["texts", "characters", "chunks"]].tolist() == [2, 14, 2]
    assert files.loc["windows.txt", "encoding"].lower().replace("-", "") in ("cp1252", "windows1252")
    assert pd.isna(files.loc["paper.pdf", "encoding"])
    assert made.counts == {
        "documents": 18,
        "chunks": 9,
        "duplicates": 0,
        "skipped": 10,
        "truncated": 0,
        "over_token_limit": 0,
    }
    assert "Der Minister verlor — „knapp“ und überraschend." in set(made.chunks["text"])


def test_the_tables_are_written_as_they_are_returned(read_texts: ReadTexts, run: RunFolder) -> None:
    made = read_texts({"a.txt": GOAL, "b.txt": VOTE, "empty.txt": "", "c.csv": "text,n\nrow,1\n"})
    for path, table in (
        (run.documents, made.documents),
        (run.chunks, made.chunks),
        (run.occurrences, made.occurrences),
    ):
        pd.testing.assert_frame_equal(pd.read_parquet(path), table, check_dtype=False)
    assert {"chunk_id", "text", "count", "source", "position", "start", "end", "document", "truncated"} < set(
        made.chunks
    )
    assert {"near_group", "tokens"} < set(made.chunks)
    assert made.occurrences.columns.tolist() == [
        "chunk_id", "source", "position", "start", "end", "document", "metadata"
    ]  # fmt: skip


def test_a_partly_read_file_keeps_what_could_be_read_and_says_so(read_texts: ReadTexts) -> None:
    made = read_texts(
        {
            "rows.jsonl": jsonl({"text": GOAL}) + "not json\n" + jsonl({"text": VOTE}, {"other": 1}),
            "pages.pdf": pdf(pdf_lines("A law was passed."), b"(", attributes={1: "/Filter /NoSuchFilter"}),
            "ok.txt": RAIN,
        }
    )
    assert fates(made) == {"ok.txt": "read", "pages.pdf": "partly read", "rows.jsonl": "partly read"}
    rows, pages = (made.documents.set_index("source").loc[name] for name in ("rows.jsonl", "pages.pdf"))
    assert "not a JSON object: line 2" in rows["reason"]
    assert 'without "text": line 4' in rows["reason"]
    assert (rows["texts"], rows["chunks"]) == (2, 2)
    assert "page 2" in pages["reason"]
    assert made.counts["skipped"] == 0
    assert set(made.chunks["text"]) == {GOAL, VOTE, RAIN, "A law was passed."}


def test_a_disk_that_fails_half_way_costs_only_the_rest_of_the_file(
    read_texts: ReadTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_rows(path: Path, **_: object) -> tuple[str, Iterator[tuple[int, str, dict[str, object]]]]:
        def rows() -> Iterator[tuple[int, str, dict[str, object]]]:
            yield 0, GOAL, {}
            raise OSError(5, "Input/output error")

        return "utf-8", rows()

    monkeypatch.setattr(documents, "read_rows", read_rows)
    made = read_texts({"a.jsonl": "x", "b.txt": VOTE})
    row = made.documents.set_index("source").loc["a.jsonl"]
    assert (row["status"], row["chunks"]) == ("partly read", 1)
    assert "Input/output error" in row["reason"]
    assert set(made.chunks["text"]) == {GOAL, VOTE}


@pytest.mark.parametrize("error", [RecursionError("too deep"), ZeroDivisionError("by zero")])
def test_a_fault_that_nobody_thought_of_costs_one_file_and_is_named(
    read_texts: ReadTexts, run: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def read_rows(path: Path, **_: object) -> tuple[str, Iterator[tuple[int, str, dict[str, object]]]]:
        raise error

    monkeypatch.setattr(documents, "read_rows", read_rows)
    made = read_texts({"a.jsonl": "x", "b.txt": VOTE})
    row = made.documents.set_index("source").loc["a.jsonl"]
    assert (row["status"], row["reason"]) == ("skipped", f"unexpected {type(error).__name__}: {error}")
    assert set(pd.read_parquet(run.chunks)["text"]) == {VOTE}


def test_only_a_person_stops_the_reading(read_texts: ReadTexts, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_rows(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(documents, "read_rows", read_rows)
    with pytest.raises(KeyboardInterrupt):
        read_texts({"a.jsonl": "x", "b.txt": VOTE})


def test_rows_are_documents_of_one_chunk_with_their_metadata(read_texts: ReadTexts) -> None:
    long = "One sentence here. " * 10
    made = read_texts(
        {
            "a.jsonl": jsonl(
                {"body": f"  {GOAL}\n", "id": 7, "tags": ["x", "ä"], "text": "not this"}, {"body": long, "id": None}
            ),
            "b.csv": "id,BODY\n1,First. Second. Third.\n",
        },
        path={"text_column": "body"},
        system={"chunk_size": 40},
    )
    rows = made.occurrences
    assert rows["document"].tolist() == ["a.jsonl#0", "a.jsonl#1", "b.csv#0"]
    assert rows["position"].tolist() == [0, 1, 0]
    metadata = [json.loads(value) for value in rows["metadata"]]
    assert metadata == [{"id": 7, "tags": ["x", "ä"], "text": "not this"}, {"id": None}, {"id": "1"}]
    texts = made.chunks.set_index("chunk_id")["text"][rows["chunk_id"]].tolist()
    assert texts == [GOAL, truncate(long.strip(), max_chars=40), "First. Second. Third."]
    assert rows[["start", "end"]].to_numpy().tolist()[0] == [2, 2 + len(GOAL)]


def test_a_row_keeps_its_place_where_others_are_left_out(read_texts: ReadTexts) -> None:
    csv = "id,text\n0,One.\n1,\n\n,\n3,Two.\n"  # as pandas counts them: a blank line is no row
    made = read_texts({"a.jsonl": f"{jsonl({'text': GOAL})}no json\n\n{jsonl({'text': VOTE})}", "b.csv": csv})
    assert made.occurrences["position"].tolist() == [0, 2, 0, 3]
    assert made.occurrences["document"].tolist() == ["a.jsonl#0", "a.jsonl#2", "b.csv#0", "b.csv#3"]


def test_documents_are_cut_at_sentence_ends_and_offsets_find_each_chunk(read_texts: ReadTexts) -> None:
    text = f"\n  {GOAL} {VOTE}\n\n{RAIN} And then it stopped.\n"
    made = read_texts({"a.txt": text}, system={"chunk_size": 30})
    assert made.chunks["text"].tolist() == [GOAL, VOTE, RAIN, "And then it stopped."]
    assert made.occurrences["position"].tolist() == [0, 1, 2, 3]
    for chunk in made.chunks.itertuples():
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.chunk_id == chunk_id(chunk.text)
    assert set(made.chunks["document"]) == {"a.txt"}


@pytest.mark.parametrize(
    ("truncation", "kept"), [("head-tail", "abcdefghij" + "qrstuvwxyz"), ("head", "abcdefghijklmnopqrst")]
)
def test_what_cannot_be_cut_is_truncated_to_exactly_chunk_size(
    truncation: str, kept: str, read_texts: ReadTexts
) -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    made = read_texts(
        {"a.txt": alphabet + "\n\nshort", "b.jsonl": jsonl({"text": alphabet.upper()})},
        system={"chunk_size": 20},
        training={"truncation_type": truncation},
    )
    assert made.chunks["text"].tolist() == [kept, "short", kept.upper()]
    assert made.chunks["truncated"].tolist() == [True, False, True]
    assert made.counts["truncated"] == 2
    assert made.chunks["end"].tolist()[::2] == [26, 26]
    assert fates(made) == {"a.txt": "partly read", "b.jsonl": "read"}  # of a row people know: it is never cut
    [said] = tell_unread(made.documents)
    assert said.startswith("Of 2 files, 1 partly read: a.txt (1 too long for system.chunk_size without a sentence or ")


# Duplicates


def test_duplicates_are_one_chunk_with_a_count_and_all_their_occurrences(read_texts: ReadTexts) -> None:
    made = read_texts(
        {
            "a.txt": GOAL,
            "b.jsonl": jsonl({"text": VOTE, "n": 0}, {"text": GOAL, "n": 1}, {"text": GOAL, "n": 2}),
            "c.csv": f"text\n{VOTE}\n",
        }
    )
    chunks = made.chunks.set_index("text")
    assert chunks["count"].to_dict() == {GOAL: 3, VOTE: 2}
    assert chunks.loc[GOAL, ["source", "position", "document"]].tolist() == ["a.txt", 0, "a.txt"]
    assert chunks.loc[VOTE, ["source", "position", "document"]].tolist() == ["b.jsonl", 0, "b.jsonl#0"]
    places = made.occurrences[made.occurrences["chunk_id"] == chunk_id(GOAL)]
    assert places["document"].tolist() == ["a.txt", "b.jsonl#1", "b.jsonl#2"]
    assert [json.loads(value) for value in places["metadata"]] == [{}, {"n": 1}, {"n": 2}]
    assert made.chunks["count"].sum() == len(made.occurrences) == 5
    assert (made.counts["chunks"], made.counts["duplicates"]) == (2, 3)


def test_a_text_that_was_cut_somewhere_counts_as_truncated(read_texts: ReadTexts) -> None:
    rows = [{"text": "x" * 30}, {"text": "x" * 20}]
    for order in (rows, rows[::-1]):
        made = read_texts({"a.jsonl": jsonl(*order)}, system={"chunk_size": 20})
        assert made.chunks[["text", "count", "truncated"]].to_numpy().tolist() == [["x" * 20, 2, True]]


def test_near_duplicates_share_a_group(read_texts: ReadTexts) -> None:
    long = "The quick brown fox jumps over the lazy dog near the river bank on a sunny day"
    made = read_texts({"a.txt": long + ".", "b.txt": long.upper() + "!", "c.txt": VOTE})
    groups = made.chunks.set_index("source")["near_group"]
    assert groups["a.txt"] == groups["b.txt"] != groups["c.txt"]


# Tokens


def test_tokens_are_counted_by_the_classifiers_tokenizer(read_texts: ReadTexts) -> None:
    made = read_texts({"a.txt": "goal match vote", "b.txt": "law", "c.txt": "goal " * 600}, system={"chunk_size": 5000})
    # [CLS] and [SEP] around the words, nothing cut
    assert made.chunks.set_index("source")["tokens"].to_dict() == {"a.txt": 5, "b.txt": 3, "c.txt": 602}
    assert (made.token_limit, made.counts["over_token_limit"]) == (512, 1)


def test_an_unknown_base_model_is_found_before_anything_is_read(read_texts: ReadTexts, run: RunFolder) -> None:
    with pytest.raises(ModelNotFoundError, match="no model at '/no/such/model'"):
        read_texts({"a.txt": GOAL}, training={"model_path": "/no/such/model"})
    assert not run.documents.exists()


def test_a_base_model_that_is_no_text_encoder_is_found_before_anything_is_read(
    read_texts: ReadTexts, run: RunFolder, tiny_llm: Path, tiny_base_model: Path, tmp_path: Path
) -> None:
    config = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config.save_pretrained(shutil.copytree(tiny_base_model, tmp_path / "t5"))
    for model in (tiny_llm, tmp_path / "t5"):
        with pytest.raises(ClassifierError, match=r"is no text encoder with a usual head\. Set training\.model_path"):
            read_texts({"a.txt": GOAL}, training={"model_path": str(model)})
        assert not run.documents.exists()


# Subsets and second runs


def many(n: int) -> dict[str, str]:
    return {f"{number:03}.txt": f"Text number {number} says {number * 7919}." for number in range(n)}


def test_a_subset_is_a_random_part_fixed_by_the_seed(read_texts: ReadTexts) -> None:
    whole = read_texts({**many(30), "copy.txt": "Text number 3 says 23757."})
    subset = {"use_subset": True, "subset_size": 12}
    part = read_texts({}, system=subset)
    assert len(part.chunks) == 12
    assert set(part.chunks["chunk_id"]) < set(whole.chunks["chunk_id"])
    assert set(part.occurrences["chunk_id"]) == set(part.chunks["chunk_id"])
    assert len(part.occurrences) == part.chunks["count"].sum()
    assert part.chunks["source"].tolist() != whole.chunks["source"].tolist()[:12]  # not the first ones
    assert len(part.documents) == 31
    assert read_texts({}, system=subset).chunks["chunk_id"].tolist() == part.chunks["chunk_id"].tolist()
    other = read_texts({}, system={**subset, "seed": 1})
    assert set(other.chunks["chunk_id"]) != set(part.chunks["chunk_id"])


def test_a_subset_of_more_files_still_holds_the_test_set_that_was_drawn(read_texts: ReadTexts, run: RunFolder) -> None:
    subset = {"use_subset": True, "subset_size": 12}
    drawn = read_texts(many(15), system=subset).chunks["chunk_id"].tolist()[:8]
    write_json(run.test_set, {"seed": 0, "chunks": 12, "chunk_ids": [*drawn, "of a text that is gone"]})
    more = read_texts(many(60), system=subset)
    assert len(more.chunks) == 12
    assert set(drawn) < set(more.chunks["chunk_id"])


@pytest.mark.parametrize("system", [{"subset_size": 2}, {"use_subset": True, "subset_size": 5}, {"use_subset": True}])
def test_no_text_is_left_out_without_need(system: dict[str, object], read_texts: ReadTexts) -> None:
    assert len(read_texts(many(5), system=system).chunks) == 5


def test_a_second_run_gives_the_same_and_new_files_change_no_id(read_texts: ReadTexts) -> None:
    first = read_texts(many(6))
    second = read_texts({})
    pd.testing.assert_frame_equal(second.chunks, first.chunks)
    pd.testing.assert_frame_equal(second.occurrences, first.occurrences)
    third = read_texts({"000a.txt": "A new text in between.", "zzz.txt": GOAL})
    assert len(third.chunks) == 8
    ids = third.chunks.set_index("source")["chunk_id"]
    assert ids[first.chunks["source"]].tolist() == first.chunks["chunk_id"].tolist()


# Folders


def test_an_output_folder_inside_the_input_folder_is_not_read(folder: Path, read_texts: ReadTexts) -> None:
    files = {"a.txt": GOAL, "out/old.txt": VOTE, "out/deep/dataset_1.jsonl": jsonl({"text": RAIN}), "outer.txt": RAIN}
    made = read_texts(files, path={"output_dir": str(folder / "out")})
    assert fates(made) == {"a.txt": "read", "outer.txt": "read"}
    assert set(made.chunks["text"]) == {GOAL, RAIN}


def test_rules_and_prompts_that_the_config_names_are_no_texts(folder: Path, read_texts: ReadTexts) -> None:
    made = read_texts(
        {"a.txt": GOAL, "rules.txt": "Sports is sport.", "mine/label.txt": "A prompt.", "mine.txt": VOTE},
        classification={"rules_file": str(folder / "rules.txt")},
        path={"prompts": str(folder / "mine")},
    )
    assert fates(made) == {"a.txt": "read", "mine.txt": "read"}


def test_an_input_folder_inside_the_output_folder_is_read(tmp_path: Path, read_texts: ReadTexts) -> None:
    made = read_texts({"a.txt": GOAL}, path={"output_dir": str(tmp_path)})
    assert fates(made) == {"a.txt": "read"}


def test_one_folder_for_input_and_output_is_an_error(folder: Path, read_texts: ReadTexts) -> None:
    with pytest.raises(ConfigError, match=r"path\.output_dir: .*texts is path\.input_dir too"):
        read_texts({"a.txt": GOAL}, path={"output_dir": str(folder)})


def test_a_missing_folder_is_one_sentence(folder: Path, read_texts: ReadTexts) -> None:
    folder.rmdir()
    with pytest.raises(ConfigError, match=r"path\.input_dir: .*texts is not a folder\. Write the path") as raised:
        read_texts({})
    assert "\n" not in str(raised.value)
    folder.write_text("a file")
    with pytest.raises(ConfigError, match="is not a folder"):
        read_texts({})


def test_what_was_not_read_is_told_in_one_sentence(read_texts: ReadTexts) -> None:
    unread = {"two\nlines.txt": "", "b.txt": "", "c.doc": "x", "d.txt": ""}
    made = read_texts({"rows.jsonl": jsonl({"text": GOAL}) + "not json\n", "ok.txt": RAIN, **unread})
    [said] = tell_unread(made.documents)
    assert said.startswith("Of 6 files, 4 skipped and 1 partly read: b.txt (empty: the file has 0 bytes); c.doc (")
    assert said.endswith(" and 2 more, see documents.parquet.")
    assert "\n" not in said
    assert tell_unread(made.documents.query("status == 'read'")) == []


@pytest.mark.parametrize("files", [{}, {".hidden": "x", "deep/~$lock.docx": "x"}])
def test_an_empty_folder_is_one_sentence(files: dict[str, str], read_texts: ReadTexts) -> None:
    with pytest.raises(ConfigError, match=r"path\.input_dir: .*texts holds no files\. Put \.txt") as raised:
        read_texts(files)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_readable_file_is_one_sentence_and_the_reasons_are_kept(
    read_texts: ReadTexts, run: RunFolder
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_texts({"a.txt": "", "b.txt": "", "c.doc": "x"})
    assert str(raised.value).startswith("None of the 3 files in ")
    assert "(2 of them: empty: the file has 0 bytes)" in str(raised.value)
    assert str(run.documents) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert pd.read_parquet(run.documents)["source"].tolist() == ["a.txt", "b.txt", "c.doc"]
    assert not run.chunks.exists()


def test_odd_file_names_stop_nothing(folder: Path, read_texts: ReadTexts, run: RunFolder) -> None:
    names = ["größe 日本語.txt", "a#b?.txt", "two\nlines.txt"]
    for name in map(os.fsdecode, (b"caf\xe9.txt", b"caf\xe8.txt", b"notes.\xe9t\xe9")):  # from an old archive
        with contextlib.suppress(OSError):  # some file systems take no such name
            (folder / name).write_text(f"Text of {name!a}.")
            names.append(name.encode("utf-8", "backslashreplace").decode())
    made = read_texts({name: f"Text of {name}" for name in names[:3]})
    assert fates(made) == {name: "skipped" if name.startswith("notes") else "read" for name in names}
    assert set(pd.read_parquet(run.occurrences)["source"]) == {name for name in names if name.endswith(".txt")}


def test_a_file_that_links_nowhere_is_a_row(folder: Path, read_texts: ReadTexts) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    made = read_texts({"a.txt": GOAL})
    assert fates(made) == {"a.txt": "read", "gone.txt": "skipped"}
    assert made.documents.set_index("source").loc["gone.txt", "bytes"] == 0
