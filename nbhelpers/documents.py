"""A file -> texts: what is in it as plain text, or one sentence about why there is nothing.

Plain text (.txt .md .srt .log), .pdf, .docx and .html give one passage a file; each row of .jsonl and .csv is a passage
of its own, read as a stream. The front matter of Markdown is left out. Here are the folder, the choice of the reader,
plain text and HTML; pdf_text, docx_text and rows are the other readers. It does not cut, count or store anything.
Source: Beautiful Soup, for HTML.
"""

import os
import re
import warnings as python_warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.docx_text import read_docx
from nbhelpers.encodings import clean, decode
from nbhelpers.errors import DocumentError
from nbhelpers.pdf_text import read_pdf
from nbhelpers.rows import CSV, JSONL, Rows, read_rows

MARKDOWN = (".md", ".markdown")
PLAIN = (".txt", ".text", *MARKDOWN, ".srt", ".log")
HTML = (".html", ".htm")
SUPPORTED = (*PLAIN, ".pdf", ".docx", *HTML, *JSONL, *CSV)

_REMEDY = {
    ".json": "save it as .jsonl, one object a line",
    ".doc": "save it as .docx",
    ".rtf": "save it as .docx or .txt",
    ".odt": "save it as .docx or .txt",
    ".eml": "save its text as .txt",
    ".msg": "save its text as .txt",
    ".xlsx": "save it as .csv",
    ".xls": "save it as .csv",
    ".ods": "save it as .csv",
    ".parquet": "save it as .jsonl or .csv",
    ".pptx": "save it as .pdf",
    ".epub": "save it as .pdf or .html",
    ".zip": "unpack it",
    ".gz": "unpack it",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif"), "run OCR and save the text as .txt"),
}
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(---|\.\.\.)[ \t]*(\n|$)", re.DOTALL)
_NO_TEXT = ["script", "style", "template", "noscript", "svg", "textarea", "iframe", "object"]
_BLOCKS = ["p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "ul", "ol", "dl", "table"]
_BLOCKS += ["title", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "form", "figure", "body"]
_LINES = ["li", "dt", "dd", "tr", "option", "caption", "figcaption"]


@dataclass(frozen=True)
class Passage:
    """One text out of a file; of a row also its number, from 0, and what else it said."""

    text: str
    number: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Document:
    """What a file holds. `warnings` is complete once `texts` is used up."""

    format: str
    is_rows: bool
    texts: Iterator[Passage]
    encoding: str | None = None
    warnings: list[str] = field(default_factory=list)


def list_files(folder: Path) -> list[Path]:
    """Every file under `folder` that a person put there, nested ones too, in a stable order.

    Args:
        folder: where to look; links to folders are followed once.
    Returns:
        Paths, sorted; none for a folder that is missing or empty. Hidden files and folders, Office lock files
        (~$...), Thumbs.db and desktop.ini are left out.
    """
    found: list[Path] = []
    seen = {folder.resolve()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            target = (Path(parent) / name).resolve()
            if not name.startswith(".") and target not in seen:
                seen.add(target)
                kept.append(name)
        folders[:] = kept
        found += [Path(parent) / name for name in files if not _is_litter(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_document(path: Path, *, text_column: str = "text") -> Document:
    """Open a file and give its texts.

    Args:
        path: the file; its suffix decides how it is read.
        text_column: the key (.jsonl) or the column (.csv, .tsv) that holds the text.
    Returns:
        The document. Rows are read while `texts` is consumed.
    Raises:
        DocumentError: it cannot be read at all, with the reason and the remedy; for rows possibly while iterating.
    """
    suffix = path.suffix.lower()
    document = Document(suffix[1:], suffix in (*JSONL, *CSV), iter(()))
    with _file_errors():
        if not path.is_file():
            gone = "a link to a file that is not there" if path.is_symlink() else "is not there any more"
            raise DocumentError("not a regular file" if path.exists() else gone)
        if path.stat().st_size == 0:
            raise DocumentError("empty: the file has 0 bytes")
        if suffix not in SUPPORTED:
            remedy = _REMEDY.get(suffix, "save it as .txt, .pdf, .docx, .html, .csv or .jsonl")
            raise DocumentError(f"format {suffix or 'without a suffix'} is not supported: {remedy}")
        if document.is_rows:
            document.encoding, rows = read_rows(path, text_column=text_column, warnings=document.warnings)
            document.texts = _passages(rows)
            return document
        if suffix == ".pdf":
            text = read_pdf(path, document.warnings)
        elif suffix == ".docx":
            text = read_docx(path, document.warnings)
        else:
            text = _read_text(path, document)
    text = clean(text)
    if suffix in MARKDOWN:
        text = _without_front_matter(text)
    if not text.strip():
        raise DocumentError("empty: there is no text in it")
    document.texts = iter([Passage(text)])
    return document


def _is_litter(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in ("thumbs.db", "desktop.ini")


@contextmanager
def _file_errors() -> Iterator[None]:
    """Turns what the file system says into a sentence."""
    try:
        yield
    except PermissionError as error:
        raise DocumentError("no permission to read it: change the file's permissions") from error
    except FileNotFoundError as error:
        raise DocumentError("is not there any more") from error
    except OSError as error:
        raise DocumentError(f"could not be read from disk: {error.strerror or error}") from error


def _passages(rows: Rows) -> Iterator[Passage]:
    with _file_errors():
        for number, text, metadata in rows:
            yield Passage(text, number, metadata)


def _read_text(path: Path, document: Document) -> str:
    """Plain text, and HTML by what it shows."""
    data = path.read_bytes()
    is_html = path.suffix.lower() in HTML
    meta = re.search(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w:.-]+)", data[:4096], re.IGNORECASE)
    declared = meta[1].decode("ascii", "replace") if meta and is_html else None
    text, document.encoding = decode(data, declared=declared)
    if bad := text.count("\ufffd"):
        document.warnings.append(f"{bad} characters could not be decoded as {document.encoding}")
    return _html_text(clean(text)) if is_html else text


def _without_front_matter(text: str) -> str:
    """Without YAML's keys between two lines of dashes at the very beginning: such as tags, which may name the class."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return text
    try:
        keys = yaml.safe_load(found[1] or "")
    except yaml.YAMLError:
        return text
    return text[found.end() :] if keys is None or isinstance(keys, dict) else text


def _html_text(markup: str) -> str:
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString

    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # about pages that look like XML
        soup = BeautifulSoup(markup, "lxml")
    for tag in soup(_NO_TEXT):
        tag.decompose()
    for string in soup.find_all(string=True):
        if type(string) is NavigableString and string.find_parent("pre") is None:
            string.replace_with(re.sub(r"\s+", " ", string))
    for names, end in (["br"], "\n"), (["td", "th"], "\t"), (_LINES, "\n"), (_BLOCKS, "\n\n"):
        for tag in soup(names):
            tag.insert_after(end)
            if end == "\n\n" or tag.name == "li":
                tag.insert_before(end)
    text = soup.get_text().replace("\xa0", " ")
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r" *\t[ \t]*", "\t", text))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" {2,}", " ", text)).strip()
