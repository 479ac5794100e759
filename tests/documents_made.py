"""Sample files for the tests, made byte by byte (nothing here is a copy of anyone's document), and their reading."""

import io
import zipfile
from pathlib import Path

import pytest

from nbhelpers.documents import read_document
from nbhelpers.errors import DocumentError

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"

RUSSIAN = "Привет, мир! Это обычный русский текст, который нужно прочитать без ошибок."
JAPANESE = "こんにちは、世界。これは日本語のテキストです。カタカナもあります。"
CHINESE = "你好，世界。这是一个普通的中文文本，我们需要正确地读取它，不能有错误。"
FRENCH = "Où est né l'été ? Ça dépend de la durée du séjour, répondit-il à l'élève."
QUOTES = "These smart quotes make it a “windows” file, and it’s short – 94 bytes or so."


def pdf_lines(*lines: str) -> bytes:
    """A page's content stream: each line below the one before."""
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    return f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode("cp1252")


def pdf(*pages: bytes, attributes: dict[int, str] | None = None, to_unicode: bytes = b"") -> bytes:
    """A PDF of these content streams; `attributes` are added to the stream dictionary of a page (from 0)."""
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding"
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 3: font + (b" /ToUnicode 4 0 R >>" if to_unicode else b" >>")}
    objects[4] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(to_unicode), to_unicode)
    kids = []
    for number, content in enumerate(pages):
        page = 5 + 2 * number
        more = (attributes or {}).get(number, "").encode()
        kids.append(b"%d 0 R" % page)
        objects[page] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (page + 1)
        )
        objects[page + 1] = b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), more, content)
    objects[2] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(pages))
    data = b"%PDF-1.4\n"
    places = []
    for number in sorted(objects):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, start)


def encrypted_pdf(data: bytes, *, user_password: str) -> bytes:
    """The same PDF, encrypted; an empty user password opens without being asked for one."""
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user_password=user_password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx(path: Path, body: str, **parts: str) -> None:
    """A .docx of raw WordprocessingML; `parts` are further ones by kind: header="<w:p>...", header2=..."""
    names = f'xmlns:w="{WORD}" xmlns:mc="{COMPATIBILITY}" xmlns:wps="urn:shape" xmlns:v="urn:schemas-microsoft-com:vml"'
    roots = {"header": "hdr", "footer": "ftr"}
    relation = '<Relationship Id="{}" Type="' + RELATIONS + '/{}" Target="{}"/>'
    package = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("_rels/.rels", package.format(relation.format("r1", "officeDocument", "word/document.xml")))
        out.writestr("word/document.xml", f"<w:document {names}><w:body>{body}</w:body></w:document>")
        related = ""
        for name, content in parts.items():
            kind = name.rstrip("0123456789")
            root = roots.get(kind, kind)
            whole = content if content.startswith("!") else f"<w:{root} {names}>{content}</w:{root}>"
            out.writestr(f"word/{name}.xml", whole)
            related += relation.format(name, kind, f"{name}.xml")
        out.writestr("word/_rels/document.xml.rels", package.format(related))


def para(*texts: str) -> str:
    """A paragraph with one run for each text."""
    return "<w:p>" + "".join(f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>' for text in texts) + "</w:p>"


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def text_of(path: Path) -> str:
    (passage,) = read_document(path).texts
    return passage.text


def rows_of(path: Path, **options) -> tuple[list[tuple[str, dict]], list[str]]:
    document = read_document(path, **options)
    assert document.is_rows
    return [(passage.text, passage.metadata) for passage in document.texts], document.warnings


def reason_of(path: Path, **options) -> str:
    with pytest.raises(DocumentError) as caught:
        list(read_document(path, **options).texts)
    assert "\n" not in str(caught.value)
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)
