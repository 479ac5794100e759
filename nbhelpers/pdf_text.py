"""A PDF -> its text, page by page: what cannot be read of it costs only its page.

Lines are joined to paragraphs, words cut at a hyphen made whole, and pages left out whose fonts do not say which
letters their glyphs are. It does no OCR, guesses no password, finds no columns or tables, and reads no attachment.
Source: pypdf, which gives the lines.
"""

import logging
import re
import signal
import threading
import unicodedata
import warnings as python_warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nbhelpers.encodings import clean, is_jumble, listed, script
from nbhelpers.errors import DocumentError

PAGE_SECONDS = 30.0


def read_pdf(path: Path, warnings: list[str]) -> str:
    """The text of a PDF, pages apart by an empty line.

    Args:
        path: the file.
        warnings: is given a sentence for the pages that are missing in the text.
    Raises:
        DocumentError: not a PDF, password-protected, damaged, scanned, or without one readable page.
    """
    texts: list[str] = []
    failed: list[int] = []
    garbled: list[int] = []
    with path.open("rb") as file, _silence():
        pages = _open_pages(file)
        for number, page in enumerate(pages, start=1):
            try:
                with _time_limit(PAGE_SECONDS):
                    text = page.extract_text()
            except (Exception, _TookTooLong):
                failed.append(number)
                continue
            if is_garbled(text):
                garbled.append(number)
            elif text.strip():
                texts.append(unwrap(clean(text)))
    if failed:
        warnings.append(f"{listed(failed, word='page')} could not be read")
    if garbled:
        warnings.append(f"{listed(garbled, word='page')} left out: garbled (font without Unicode map)")
    if texts:
        return "\n\n".join(texts)
    if garbled:
        raise DocumentError("its text comes out garbled (fonts without Unicode map): run OCR, or save it as .docx")
    if failed:
        raise DocumentError("damaged: none of its pages can be read; save or download it again")
    raise DocumentError("scanned: no text in it; run OCR first" if pages else "empty: a PDF without pages")


def is_garbled(text: str) -> bool:
    """Whether a page's text is glyph numbers or symbols rather than writing."""
    dense = re.sub(r"\s|([-.·_…=*])(?=\1)", "", text)  # dot leaders in a table of contents are not a sign of anything
    if not dense:
        return False
    numbered = sum(map(len, re.findall(r"\(cid:\d+\)", text)))
    kinds = Counter(unicodedata.category(char) for char in dense)
    unreadable = kinds["Co"] + kinds["Cn"] + kinds["Cs"] + dense.count("\ufffd")
    readable = sum(count for kind, count in kinds.items() if kind[0] in "LMN")
    return (
        numbered > len(dense) / 5
        or unreadable > len(dense) / 5
        or kinds["Cc"] > len(dense) / 20
        or (len(dense) >= 50 and readable < 0.4 * len(dense))
        or is_jumble(text)
    )


def unwrap(page: str) -> str:
    """A page's lines -> paragraphs: breaks inside a sentence become spaces, and words cut at a hyphen whole."""
    page = re.sub("[\ufb00-\ufb06]", lambda match: unicodedata.normalize("NFKC", match[0]), page)
    page = re.sub("[\uf0b7\uf0a7]", "•", page)  # the bullets of Symbol and Wingdings
    lines = [line.strip() for line in page.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    full = max(0.7 * lengths[int(0.9 * (len(lengths) - 1))], 40) if lengths else 40
    text = ""
    for line, before in zip(lines, ["", *lines], strict=False):
        if not line or not before:
            text += "\n" + line
        elif re.search(r"\w[-\u2010\xad]$", before):
            whole_word = before[-2].isalpha() and line[0].islower()
            text = (text[:-1] if whole_word else text) + line
        elif script(before[-1]) == script(line[0]) == "CJK":
            text += line
        elif line[0].islower() or (len(before) >= full and not re.search(r"[.!?:…。]\W?$|[._…]{4}", before)):
            text += " " + line
        else:
            text += "\n" + line
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _open_pages(file: IO[bytes]) -> list[Any]:
    import pypdf

    if b"%PDF-" not in file.read(1024):
        raise DocumentError("not a PDF: its content is something else under the name .pdf")
    try:
        with _time_limit(PAGE_SECONDS):
            reader = pypdf.PdfReader(file, strict=False)
            if not reader.is_encrypted or reader.decrypt(""):
                return list(reader.pages)
    except (Exception, _TookTooLong) as error:  # pypdf raises many kinds on a broken file
        raise DocumentError("damaged: the PDF cannot be opened; save or download it again") from error
    raise DocumentError("password-protected: remove the password and save it again")


@contextmanager
def _silence() -> Iterator[None]:
    """No line for each oddity of a damaged file: our warnings say it in one."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _TookTooLong(BaseException):
    """Not an Exception: a library's `except Exception` must not swallow it."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stops what hangs, where the system can (main thread, not on Windows); elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise _TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
