import zipfile
from functools import partial

import pytest
from documents_made import docx, para, reason_of, text_of, write

from nbhelpers import docx_text
from nbhelpers.documents import read_document


@pytest.fixture
def put(tmp_path):
    return partial(write, tmp_path)


def table(*rows: list[str]) -> str:
    cells = ("".join(f"<w:tc>{cell}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def test_word_files_made_by_python_docx_read_in_order(tmp_path):
    import docx as python_docx

    made = python_docx.Document()
    made.sections[0].header.paragraphs[0].text = "Acme Ltd"
    made.sections[0].footer.paragraphs[0].text = "confidential"
    made.add_heading("Report", 1)
    grid = made.add_table(2, 2)
    for cell, value in zip([cell for row in grid.rows for cell in row.cells], "abcd", strict=True):
        cell.text = value
    made.add_paragraph("After the\ttable.")
    made.save(tmp_path / "a.docx")
    assert text_of(tmp_path / "a.docx") == "Acme Ltd\n\nReport\n\na\tb\nc\td\n\nAfter the\ttable.\n\nconfidential"


BOX = "<w:txbxContent>{}</w:txbxContent>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (para("one ", "two"), "one two"),
        (
            f"<w:p><w:r><w:t xml:space='preserve'>with </w:t></w:r><w:ins>{para('two')[5:-6]}</w:ins>"
            "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>",
            "with two",
        ),
        ("<w:moveFrom><w:r><w:t>x</w:t></w:r></w:moveFrom>" + para("kept"), "kept"),
        (f"<w:sdt><w:sdtPr/><w:sdtContent>{para('in a control')}</w:sdtContent></w:sdt>", "in a control"),
        ("<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t><w:tab/><w:t>c</w:t><w:noBreakHyphen/></w:r></w:p>", "a\nb\tc-"),
        (
            "<w:p><w:r><w:t>line</w:t></w:r><w:r><mc:AlternateContent>"
            f"<mc:Choice><wps:txbx>{BOX.format(para('boxed'))}</wps:txbx></mc:Choice>"
            f"<mc:Fallback><v:textbox>{BOX.format(para('boxed'))}</v:textbox></mc:Fallback>"
            "</mc:AlternateContent></w:r></w:p>",
            "line\n\nboxed",
        ),
        (f"<w:p><w:r><v:textbox>{BOX.format(para('old box'))}</v:textbox></w:r></w:p>", "old box"),
        (
            para("before")
            + table([para("a") + para("b"), para("c")], [table([para("in")]), para("d")])
            + para("after"),
            "before\n\na b\tc\nin\td\n\nafter",
        ),
        ("<w:p><w:r><w:instrText>PAGE</w:instrText></w:r><w:r><w:t>7 &amp; 8</w:t></w:r></w:p>", "7 & 8"),
    ],
)
def test_word_text_is_what_a_reader_sees(tmp_path, body, expected):
    docx(tmp_path / "a.docx", body)
    assert text_of(tmp_path / "a.docx") == expected


def test_word_headers_notes_and_comments(tmp_path):
    docx(
        tmp_path / "a.docx",
        para("Body."),
        header=para("Acme"),
        header2=para("Acme"),
        header3=para("Chapter one"),
        footer=para("3"),
        footnotes=f'<w:footnote w:type="separator">{para("--")}</w:footnote><w:footnote>{para("A note.")}</w:footnote>',
        comments=para("A remark."),
    )
    assert text_of(tmp_path / "a.docx") == "Acme\n\nChapter one\n\nBody.\n\nA note."


def test_a_broken_header_costs_only_itself(tmp_path):
    docx(tmp_path / "a.docx", para("Body."), header="!<w:hdr", footer=para("Foot"))
    document = read_document(tmp_path / "a.docx")
    assert [passage.text for passage in document.texts] == ["Body.\n\nFoot"]
    assert document.warnings == ["the header part word/header.xml could not be read"]


def test_damaged_foreign_and_exploding_word_files(tmp_path, put, monkeypatch):
    docx(tmp_path / "whole.docx", para("Body. " * 500))
    data = (tmp_path / "whole.docx").read_bytes()
    assert "damaged" in reason_of(put("cut.docx", data[: len(data) // 2]))
    assert "damaged" in reason_of(put("bytes.docx", data.replace(data[200:230], bytes(30))))
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as out:
        out.writestr("xl/workbook.xml", "<workbook/>")
    assert "not a Word document" in reason_of(tmp_path / "other.docx")
    monkeypatch.setattr(docx_text, "MAX_PART_BYTES", 2_000)
    assert "too large: word/document.xml" in reason_of(tmp_path / "whole.docx")


def test_a_word_file_nested_too_deeply_to_follow_is_not_called_password_protected(tmp_path, monkeypatch):
    def too_deep(node):
        raise RecursionError("maximum recursion depth exceeded")

    docx(tmp_path / "a.docx", para("Body."))
    monkeypatch.setattr(docx_text, "_blocks", too_deep)
    assert reason_of(tmp_path / "a.docx").startswith("damaged")
