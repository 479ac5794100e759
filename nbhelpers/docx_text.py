"""A Word document (.docx) -> its text as a reader sees it: headers, body with tables and text boxes, notes, footers.

Tracked insertions are text, tracked deletions and comments are not. It reads no pictures, no list numbers and no
embedded files. python-docx names the parts of the package; they are opened here one by one, because `docx.Document`
fails as a whole where one header is broken, and its `paragraph.text` misses insertions, text boxes and notes. Source:
ECMA-376, parts 1 (WordprocessingML) and 2 (packages).
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbhelpers.encodings import OLE
from nbhelpers.errors import DocumentError

MAX_PART_BYTES = 200_000_000  # a larger part is a zip bomb, not a text
_SKIPPED = {"del", "moveFrom", "instrText", "delText", "delInstrText", "Fallback", "rt"}
_SKIPPED |= {"pPr", "rPr", "tblPr", "trPr", "tcPr", "sdtPr", "sectPr"}
_CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
# What a broken part raises; lxml's XMLSyntaxError is a SyntaxError, and tables in tables may go too deep to follow.
_BROKEN = (zipfile.BadZipFile, zlib.error, SyntaxError, LookupError, ValueError, EOFError, RecursionError)


def read_docx(path: Path, warnings: list[str]) -> str:
    """The text of a .docx, paragraphs and tables apart by an empty line, table cells by tabs.

    Args:
        path: the file.
        warnings: is given a sentence for each header, footer or notes part that is missing in the text.
    Raises:
        DocumentError: not a Word document, password-protected, damaged, too large, or only pictures.
    """
    from docx.opc.packuri import PACKAGE_URI

    with path.open("rb") as file:
        head = file.read(8)
    if head == OLE:
        raise DocumentError("password-protected, or an old .doc under another name: save it as .docx without password")
    if not head.startswith(b"PK"):
        raise DocumentError("not a Word document: its content is something else under the name .docx")
    try:
        with zipfile.ZipFile(path) as package:
            main = next((part for kind, part in _related(package, PACKAGE_URI) if kind == "officeDocument"), None)
            root = None if main is None else _xml(package, main)
            if root is None or _local(root) != "document":
                raise DocumentError("not a Word document: save it as .docx from Word or LibreOffice")
            body = "\n\n".join(_blocks(root))
            around = _text_around(package, main, warnings)
    except _BROKEN as error:
        raise DocumentError("damaged: the .docx cannot be opened; save or download it again") from error
    except RuntimeError as error:  # zipfile's word for an encrypted part
        raise DocumentError("password-protected: remove the password and save it again") from error
    parts = [*around["header"], body, *around["footnotes"], *around["endnotes"], *around["footer"]]
    text = "\n\n".join(filter(None, parts))
    if not text and any(name.startswith("word/media/") for name in package.namelist()):
        raise DocumentError("only pictures: no text in it; run OCR first")
    return text


def _text_around(package: zipfile.ZipFile, main: Any, warnings: list[str]) -> dict[str, list[str]]:
    """The distinct texts of headers, footers and notes, by kind."""
    around: dict[str, list[str]] = {"header": [], "footer": [], "footnotes": [], "endnotes": []}
    for kind, part in _related(package, main):
        if kind in around:
            try:
                text = "\n\n".join(_blocks(_xml(package, part)))
            except _BROKEN:
                warnings.append(f"the {kind} part {part.membername} could not be read")
                continue
            if text not in around[kind] and any(map(str.isalpha, text)):  # not an empty one, nor a page number
                around[kind].append(text)
    return around


def _related(package: zipfile.ZipFile, source: Any) -> list[tuple[str, Any]]:
    """(kind, PackURI) of the parts in the package that `source` refers to, in the order of their ids."""
    from docx.opc.packuri import PackURI

    if source.rels_uri.membername not in package.namelist():
        return []
    found = [
        (node.get("Id", ""), node.get("Type", "").rpartition("/")[2], node.get("Target", "").replace("\\", "/"))
        for node in _xml(package, source.rels_uri)
        if node.get("TargetMode") != "External"
    ]
    return [(kind, PackURI.from_rel_ref(source.baseURI, target)) for _, kind, target in sorted(found)]


def _xml(package: zipfile.ZipFile, part: Any) -> Any:
    from lxml import etree

    with package.open(part.membername) as file:  # what the directory says about its size may be a lie
        data = file.read(MAX_PART_BYTES + 1)
    if len(data) > MAX_PART_BYTES:
        raise DocumentError(f"too large: {part.membername} in it unpacks to over {MAX_PART_BYTES // 1_000_000} MB")
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))


def _local(node: Any) -> str:
    """A tag without its namespace: the transitional and the strict kind of docx differ in nothing else here."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def _blocks(node: Any) -> list[str]:
    """Paragraphs and tables under `node`, in document order, each as one text."""
    blocks: list[str] = []
    for child in node:
        name = _local(child)
        if name == "p":
            boxes: list[Any] = []
            blocks.append(_paragraph(child, boxes).strip())
            for box in boxes:
                blocks += _blocks(box)
        elif name == "tbl":
            blocks.append("\n".join(filter(str.strip, map(_row, _nearest(child, "tr")))))
        elif name in ("footnote", "endnote") and any("separator" in value.lower() for value in child.attrib.values()):
            continue
        elif name not in _SKIPPED:
            blocks += _blocks(child)
    return [block for block in blocks if block]


def _row(row: Any) -> str:
    if any(_local(mark) == "del" for group in row if _local(group) == "trPr" for mark in group):
        return ""  # a tracked deletion of the whole row
    return "\t".join(re.sub(r"\s+", " ", " ".join(_blocks(cell))) for cell in _nearest(row, "tc")).rstrip()


def _nearest(node: Any, name: str) -> Iterator[Any]:
    """The rows of a table or the cells of a row, inside controls too, but not those of a table in a cell."""
    for child in node:
        if _local(child) == name:
            yield child
        else:
            yield from _nearest(child, name)


def _paragraph(node: Any, boxes: list[Any]) -> str:
    """The text of a paragraph or a part of it; its text boxes are put aside, to follow it."""
    text = ""
    for child in node:
        name = _local(child)
        if name == "t":
            text += child.text or ""
        elif name in _CHARACTERS:
            text += _CHARACTERS[name]
        elif name == "txbxContent":
            boxes.append(child)
        elif name == "AlternateContent" and len(child):
            text += _paragraph(child[0], boxes)  # its Choice; the Fallback says the same again
        elif name not in _SKIPPED:
            text += _paragraph(child, boxes)
    return text
