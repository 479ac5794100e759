import json
from functools import partial

import pytest
from documents_made import FRENCH, JAPANESE, reason_of, rows_of, write

from nbhelpers import rows as rows_module
from nbhelpers.documents import read_document


@pytest.fixture
def put(tmp_path):
    return partial(write, tmp_path)


def test_jsonl_rows_keep_their_other_keys(put):
    lines = '{"text": "first", "id": 7, "tags": ["a"]}\n\n{"text": "zwei\\r\\nZeilen", "x": null}\r\n{"text": "3"}'
    rows, warnings = rows_of(put("a.jsonl", lines))
    assert rows == [("first", {"id": 7, "tags": ["a"]}), ("zwei\nZeilen", {"x": None}), ("3", {})]
    assert warnings == []


def test_bad_jsonl_lines_cost_only_themselves(put):
    good = b'{"text": "good"}\n'
    bad = [
        b"no json\n",
        b'["text"]\n',
        b'{"title": "x"}\n',
        b'{"text": 5}\n',
        b'{"text": "  "}\n',
        b'{"text": "\xff"}\n',
        b'{"text": "deep", "more": ' + b"[" * 900 + b"]" * 900 + b"}\n",
    ]
    data = "é".join(['{"text": "', '"}\n']).encode() * 40 + b"".join(line + good for line in bad) + good
    rows, warnings = rows_of(put("a.jsonl", data))
    assert [text for text, _ in rows] == ["é"] * 40 + ["good"] * 8
    assert warnings == [
        "2 left out, not a JSON object: lines 41 and 43",
        '1 left out, without "text": line 45',
        '1 left out, "text" is not a text: line 47',
        '1 left out, "text" is empty: line 49',
        "1 left out, not decodable: line 51",
        "1 left out, nested too deeply: line 53",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"body": "x", "id": 1}\n{"body": "y"}', ['"text"', '"body"', '"id"', "path.text_column"]),
        ('[\n{"text": "x"}\n]', []),
        ('[{"text": "x"}, {"text": "y"}]', ["one JSON list", "one object a line"]),
        ("words\nmore words", ["not a JSON object"]),
        ("\n\n", ["only empty lines"]),
    ],
)
def test_jsonl_without_a_usable_line(put, data, words):
    if not words:  # a list with an object on each line is as good
        assert rows_of(put("a.jsonl", data))[0] == [("x", {})]
        return
    reason = reason_of(put("a.jsonl", data))
    assert [word for word in words if word not in reason] == []


def test_the_text_column_can_be_named(put):
    assert rows_of(put("a.jsonl", '{"body": "x", "text": "y"}'), text_column="body")[0] == [("x", {"text": "y"})]
    assert rows_of(put("a.csv", "body,text\nx,y\n"), text_column="body")[0] == [("x", {"text": "y"})]


def test_its_case_does_not_matter_where_one_column_is_alike(put):
    rows = '{"Text": "x", "id": 1}\n{"text": "y", "TEXT": "z"}\n{"Text": "v", "TEXT": "w"}\n'
    assert rows_of(put("a.jsonl", rows))[0] == [("x", {"id": 1}), ("y", {"TEXT": "z"})]
    assert rows_of(put("a.csv", "Text,id\nx,1\n"))[0] == [("x", {"id": "1"})]


def test_json_escapes_that_no_file_can_hold_are_replaced(put):
    line = json.dumps({"text": "a\ud800b\0c \U0001f600", "n": float("nan"), "k": {"\udfff": ["\ud800"]}})
    ((text, metadata),), _ = rows_of(put("a.jsonl", line))
    assert text == "a\ufffdbc \U0001f600"
    assert metadata == {"n": None, "k": {"\ufffd": ["\ufffd"]}}


def test_the_encoding_of_a_large_file_is_seen_past_its_ascii_beginning(put, monkeypatch):
    monkeypatch.setattr(rows_module, "SAMPLE_BYTES", 1000)
    data = b'{"text": "plain"}\n' * 500 + ('{"text": "' + FRENCH + '"}\n').encode("cp1252") * 3
    rows, warnings = rows_of(put("a.jsonl", data))
    assert [text for text, _ in rows[-4:]] == ["plain", FRENCH, FRENCH, FRENCH]
    assert warnings == []
    data = ('{"text": "' + JAPANESE + '"}\n').encode() * 50  # samples that end inside a character
    assert {text for text, _ in rows_of(put("b.jsonl", data))[0]} == {JAPANESE}


def test_rows_are_streamed(put):
    path = put("a.jsonl", b'{"text": "x"}\n' * 200_000)
    texts = read_document(path).texts
    assert next(texts).text == "x"
    path.unlink()  # the open file goes on
    assert sum(1 for _ in texts) == 199_999


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_csv_delimiters_quotes_and_encodings(put, delimiter, encoding):
    lines = [["id", "text", "n"], ["1", '"one, two; ""café""\r\nand a\tsecond line | x"', "5"], ["2", "plain", ""]]
    data = "\r\n".join(delimiter.join(line) for line in lines).encode(encoding)
    rows, warnings = rows_of(put("a.csv", data))
    assert rows == [
        ('one, two; "café"\nand a\tsecond line | x', {"id": "1", "n": "5"}),
        ("plain", {"id": "2", "n": ""}),
    ]
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", "text\nHello, world; here\n", [("Hello, world; here", {})]),
        ("a.csv", "sep=;\ntext;b\nx,1;2\n", [("x,1", {"b": "2"})]),
        ("a.csv", " Text ,id\nx,1\n", [("x", {"id": "1"})]),
        ("a.csv", "text,,id\nx,1,2,,\n", [("x", {"column_2": "1", "id": "2"})]),
        (
            "a.tsv",
            'label\ttext\nham\t"Yes, he said\nspam\tWIN "now"\n',
            [('"Yes, he said', "ham"), ('WIN "now"', "spam")],
        ),
        ("a.tsv", 'label\ttext\nham\t"Yes"\n', [("Yes", "ham")]),
        ("a.csv", "\n\nlabel,text\nham,Yes\n", [("Yes", "ham")]),
    ],
)
def test_csv_as_people_write_it(put, name, data, expected):
    rows, _ = rows_of(put(name, data))
    assert rows == [(text, {"label": more} if isinstance(more, str) else more) for text, more in expected]


def test_bad_csv_rows_cost_only_themselves(put):
    data = "text,id\né,1\n".encode() * 1 + "éé,1\n".encode() * 20 + b"a,b,c\n\xff,1\n ,1\n,,\n\nlast\n"
    rows, warnings = rows_of(put("a.csv", data))
    assert rows[-2:] == [("éé", {"id": "1"}), ("last", {})]
    assert warnings == [
        "1 left out, more than the header's 2 columns: line 23",
        "1 left out, not decodable: line 24",
        '1 left out, "text" is empty: line 25',
    ]


def test_a_quote_that_is_never_closed_is_said(put):
    data = "text,id\n" + "a,1\n" + '"open,2\n' + "b,3\n" * 1500
    _, warnings = rows_of(put("a.csv", data))
    assert warnings == ["the row at line 3 is 1,501 lines long: is a quote not closed?"]
    _, warnings = rows_of(put("b.csv", "text,id\na,1\n" + '"open,2\n' + "b,3\n" * 3))
    assert warnings == ["the row at line 3 is 4 lines long: is a quote not closed?"]
    rows, warnings = rows_of(put("c.csv", "text,id\na,1\n" + '"open,2\n' + "b,3\n" * 6 + '"closed",4\n' + "c,5\n"))
    assert warnings == ["the row at line 3 is 8 lines long: is a quote not closed?"]
    assert rows[0] == ("a", {"id": "1"})


def test_a_text_of_many_lines_is_no_open_quote(put):
    text = 'Dear all,\n\none, two, three\nand, so on\n\nYours,\n\nI said ""no""\n'
    rows, warnings = rows_of(put("a.csv", f'text,id\n"{text}",1\n"{text}",2\nlast,3'))
    assert warnings == []
    assert [row[0] for row in rows] == [text.replace('""', '"')] * 2 + ["last"]


def test_csv_without_the_column_names_the_columns(put):
    reason = reason_of(put("a.csv", "Title one,,\n,Number,Square\n,1,1\n"))
    assert reason == 'no column "text": the columns are "Title one"; set path.text_column'
    assert "only a header" in reason_of(put("b.csv", "text,id\n"))
    assert "no column" in reason_of(put("c.csv", "TEXT,Text\nx,y\n"))
