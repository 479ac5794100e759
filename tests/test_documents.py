import codecs
import os
from functools import partial
from pathlib import Path

import pytest
from documents_made import FRENCH, JAPANESE, RUSSIAN, pdf, pdf_lines, reason_of, text_of, write

from nbhelpers.documents import list_files, read_document


@pytest.fixture
def put(tmp_path):
    return partial(write, tmp_path)


def test_files_are_listed_nested_and_sorted_without_litter(put, tmp_path):
    kept = ["a.txt", "b/c/d.pdf", "b/z.txt", "c.md"]
    for name in [*kept, ".hidden", ".git/config", "b/~$lock.docx", "Thumbs.db", "b/desktop.ini", "b/.DS_Store"]:
        put(name, "x")
    assert [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)] == kept


def test_linked_folders_are_read_once_and_loops_end(put, tmp_path):
    put("in/a.txt", "x")
    put("elsewhere/b.txt", "x")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/more").symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in list_files(tmp_path / "in")] == ["a.txt", "b.txt"]


def test_a_missing_or_empty_folder_has_no_files(tmp_path):
    assert list_files(tmp_path / "none") == []
    assert list_files(tmp_path) == []


# --- what cannot be read

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.rtf", b"{\\rtf1 x}", [".rtf is not supported", ".docx or .txt"]),
        ("a.json", b"[]", [".json is not supported", ".jsonl"]),
        ("a.xlsx", b"PK", ["not supported", ".csv"]),
        ("a.odt", b"x", ["not supported", ".docx"]),
        ("a.xyz", b"x", [".xyz is not supported"]),
        ("README", b"x", ["without a suffix"]),
        ("a.txt", b"", ["empty", "0 bytes"]),
        ("a.pdf", b"", ["empty"]),
        ("a.jsonl", b"", ["empty"]),
        ("a.txt", b" \n\t\n", ["empty", "no text"]),
        ("a.txt", PNG, ["not text", "PNG"]),
        ("a.md", b"%PDF-1.4\n%", ["not text", "PDF"]),
        ("a.txt", b"some words\x00\x01\x02 and more words\x00", ["not text", "binary"]),
        ("a.txt", bytes(range(1, 32)) * 9 + b"words", ["not text", "binary"]),
        ("a.csv", PNG, ["not text"]),
        ("a.txt", "HELLO WORLD, THIS IS A LETTER FROM THE OFFICE".encode("cp500"), ["EBCDIC"]),
        ("a.pdf", b"just words", ["not a PDF"]),
        ("a.pdf", pdf(pdf_lines("Hello"))[:120], ["damaged"]),
        ("a.pdf", pdf(b""), ["scanned", "OCR"]),
        ("a.docx", OLE, ["password-protected"]),
        ("a.docx", b"plain words", ["not a Word document"]),
        ("a.docx", b"PK\x03\x04" + bytes(200), ["damaged"]),
        ("a.html", b"<html><script>var x = 1</script></html>", ["empty"]),
    ],
)
def test_what_cannot_be_read_says_why(put, name, data, words):
    reason = reason_of(put(name, data))
    assert [word for word in words if word not in reason] == []


def test_a_file_that_vanished_or_is_no_file(tmp_path):
    assert "not there any more" in reason_of(tmp_path / "gone.txt")
    (tmp_path / "folder.txt").mkdir()
    assert "not a regular file" in reason_of(tmp_path / "folder.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    assert "a link to a file that is not there" in reason_of(tmp_path / "link.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in reason_of(tmp_path / "pipe.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.jsonl", "a.csv"])
def test_a_file_without_permission_says_so(put, monkeypatch, name):
    path = put(name, "text\nx")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # root may read everything, so the permission bits prove nothing
    assert "no permission" in reason_of(path)


# --- text and HTML


def test_byte_order_marks_are_not_text(put):
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le")):
        assert text_of(put("a.srt", mark + "Hello".encode(encoding))) == "Hello"
    assert text_of(put("a.txt", b"\xef\xbb\xbfHello")) == "Hello"


def test_a_few_damaged_characters_do_not_change_the_encoding(put):
    document = read_document(put("a.txt", "héllo wörld ñandú çédille".encode() * 3 + b" \xff!"))
    assert next(document.texts).text.endswith("çédille \ufffd!")
    assert document.encoding == "utf-8"
    assert document.warnings == ["1 characters could not be decoded as utf-8"]


def test_line_ends_and_control_characters_are_normalised(put):
    text = text_of(put("a.log", "one\r\ntwo\rthree\x0cfour\x07\tfive\u2028six \x1b[31mred\x1b[0m"))
    assert text == "one\ntwo\nthree\nfour\tfive\nsix red"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("---\r\ntags: [praise]\ntitle: A stay\n---\n\nAll was well.", "All was well."),
        ("---\n---\nAll was well.", "All was well."),
        ("---\nAll was well.\n---\nAnd then it was not.", "---\nAll was well.\n---\nAnd then it was not."),
        ("---\ntags: [praise\n---\nAll was well.", "---\ntags: [praise\n---\nAll was well."),
        ("All was well.\n---\ntags: praise\n---", "All was well.\n---\ntags: praise\n---"),
    ],
)
def test_front_matter_of_markdown_is_no_text(put, text, kept):
    assert text_of(put("a.md", text)).strip() == kept
    assert text_of(put("a.txt", text)).startswith(text[:3])


def test_markdown_with_nothing_but_front_matter_is_empty(put):
    assert "empty" in reason_of(put("a.md", "---\ntags: [praise]\n---\n"))


def test_html_gives_text_without_markup_styles_and_scripts(put):
    page = """<!DOCTYPE html><html><head><title>Shop</title><style>p {color: red}</style>
    <script>var a = '<p>no</p>'</script></head><body><!-- a comment --><h1>New
      shoes</h1><p>They are <b>very</b> light.<br>And cheap &amp; good.</p><ul><li>red</li><li>blue</li></ul>
    <table><tr><td>size</td><td>41</td></tr><tr><td>price</td><td>9</td></tr></table><noscript>off</noscript></body></html>"""
    assert text_of(put("a.html", page)) == (
        "Shop\n\nNew shoes\n\nThey are very light.\nAnd cheap & good.\n\nred\n\nblue\n\nsize\t41\nprice\t9"
    )


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (RUSSIAN, "cp1251", "windows-1251"),
        (RUSSIAN, "cp1251", "iso-8859-1"),
        (RUSSIAN, "utf-8", "windows-1251"),
        (RUSSIAN, "koi8_r", "utf-8"),
        (FRENCH, "cp1252", "koi8-r"),
        (FRENCH, "cp1252", "iso-8859-1"),
        (FRENCH, "cp1252", "no-such-charset"),
        (JAPANESE, "shift_jis", "Shift_JIS"),
        ("وأعرب الاتحاد عن أسفه لهذا الموقف", "iso8859_6", "iso-8859-6"),
        ("Źle się czuję, więc idę spać. Wieś śpi.", "iso8859_2", "iso-8859-2"),
    ],
)
def test_a_wrong_charset_tag_gives_no_garbage(put, text, encoding, declared):
    page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={declared}"></head><p>{text}</p>'
    assert text_of(put("a.htm", page.encode(encoding))) == text
