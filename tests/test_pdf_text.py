import logging
from functools import partial

import pytest
from documents_made import encrypted_pdf, pdf, pdf_lines, reason_of, text_of, write

from nbhelpers import pdf_text
from nbhelpers.documents import read_document


@pytest.fixture
def put(tmp_path):
    return partial(write, tmp_path)


def test_pdf_pages_are_joined_and_lines_unwrapped(put):
    long = "The registrant must keep records of all such disposals for"
    first = pdf_lines("A Heading", long, "at least two years and file peri-", "odic reports. He did so.", "B Heading")
    data = pdf(first, pdf_lines("Second page, 1-", "2 lines"))
    assert text_of(put("a.pdf", data)) == (
        f"A Heading\n{long} at least two years and file periodic reports. He did so.\nB Heading\n\n"
        "Second page, 1-2 lines"
    )


def test_ligatures_are_letters_and_nothing_else_is_folded():
    assert pdf_text.unwrap("the misﬁt o\ufb03ce ½ x²") == "the misfit office ½ x²"


def test_pages_that_fail_cost_only_themselves(put):
    broken = b"BT /F1 12 Tf (unclosed Tj"
    document = read_document(put("a.pdf", pdf(pdf_lines("First."), broken, pdf_lines("Third."), broken)))
    assert [passage.text for passage in document.texts] == ["First.\n\nThird."]
    assert document.warnings == ["pages 2 and 4 could not be read"]
    assert "damaged: none of its pages" in reason_of(put("b.pdf", pdf(broken)))


GARBLED = pdf_lines("".join(f"\\{code:03o}" for code in (3, 4, 5, 17, 18, 19)) * 9)


def test_garbled_pages_are_left_out_and_said(put):
    document = read_document(put("a.pdf", pdf(pdf_lines("Good words."), GARBLED)))
    assert [passage.text for passage in document.texts] == ["Good words."]
    assert document.warnings == ["page 2 left out: garbled (font without Unicode map)"]
    assert "garbled" in reason_of(put("b.pdf", pdf(GARBLED)))


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("(cid:68)(cid:114)(cid:7)", True),
        ("\ue001\ue002\ue003 \ue004 abc", True),
        ("\ufffd\ufffd\ufffd word", True),
        ("!#$ %&/ ()= ?*+ " * 10, True),
        ("ୈ\nೋ\nҰ\n߲\nද\n੨\nՐ\nͱ\nண\nα\nж\nҰ\nද" * 3, True),
        (
            "Overview ............................................ 6\nModel ........................................ 7",
            False,
        ),
        ("2019 1,204.50 (13.2) 55%\n2020 1,310.75 (9.1) 61%", False),
        ("• An item with a bullet \uf0b7", False),
        ("Hello World مرحبا بالعالم Привет, мир 你好世界 สวัสดีชาวโลก こんにちは世界", False),
        ("漢字とカタカナとABCが混ざった日本語の文章です。", False),
        ("", False),
    ],
)
def test_garbled_text_is_told_from_text(text, garbled):
    assert pdf_text.is_garbled(text) == garbled


def test_encrypted_pdfs_open_only_with_an_empty_password(put):
    data = pdf(pdf_lines("Secret words."))
    assert text_of(put("open.pdf", encrypted_pdf(data, user_password=""))) == "Secret words."
    assert "password-protected: remove" in reason_of(put("shut.pdf", encrypted_pdf(data, user_password="x")))


def test_pypdf_says_nothing_and_its_logger_is_as_before(put, caplog, capfd):
    level = logging.getLogger("pypdf").level
    broken = pdf(pdf_lines("Hello.")).replace(b"startxref\n", b"startxref\n9")
    assert text_of(put("a.pdf", broken)) == "Hello."
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert logging.getLogger("pypdf").level == level


def test_a_page_that_hangs_is_given_up(put, monkeypatch):
    def forever(*_, **__):
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    monkeypatch.setattr(pdf_text, "PAGE_SECONDS", 0.2)
    monkeypatch.setattr("pypdf.PageObject.extract_text", forever)
    assert "none of its pages can be read" in reason_of(put("a.pdf", pdf(pdf_lines("Hello."))))
