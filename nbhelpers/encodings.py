"""Bytes -> text: which encoding a file is in, and the small things about text that every reader needs.

Marks, zero bytes and UTF-8 are decided here, and old code pages by chardet, but for what is nearly a draw. It opens no
file, and takes what a file says about itself for a hint only. Source: the WHATWG Encoding Standard (labels).
"""

import codecs
import itertools
import re
import unicodedata

from nbhelpers.errors import DocumentError

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip or Office file",
    OLE: "an old or encrypted Office file",
    b"{\\rtf": "RTF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x1f\x8b": "a gzip file",
    b"\x7fELF": "a program",
}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16: its mark begins with the same two bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Supersets under the labels that files carry, as browsers read them.
_LABELS = {
    **dict.fromkeys(("iso8859-1", "ascii", "latin-1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_NEIGHBOURS = ["cp1250", "iso8859-2", "cp1254", "cp1257"]
_LATIN = ["cp1252", *_NEIGHBOURS, "mac-roman", "cp850"]
_OTHER = ["cp1251", "koi8-r", "cp866", "iso8859-5", "iso8859-7", "cp1253", "cp1255", "cp1256", "iso8859-6", "tis-620"]
_OTHER += ["big5", "gb18030", "cp949", "cp932", "euc-jp"]
NEARLY = 0.45  # of the best one's confidence: Czech and Polish are below it, French and German above


def decode(data: bytes, *, declared: str | None = None) -> tuple[str, str]:
    """Bytes -> text and the name of the encoding.

    Args:
        data: a whole file.
        declared: the encoding that the file itself names (an HTML meta tag); believed where the bytes agree.
    Returns:
        The text as it is in the file, and the encoding. Example: b"caf\\xe9" -> ("café", "cp1252").
    Raises:
        DocumentError: it is not text, or in no encoding that can be recognised.
    """
    encoding = find_encoding(data, declared=declared)
    return data.decode(encoding, errors="replace").removeprefix("\ufeff"), encoding


def find_encoding(data: bytes, *, declared: str | None = None, whole: bool = True) -> str:
    """The encoding of `data`, as Python names it.

    Args:
        data: a file, or the beginning of one.
        declared: as for `decode`.
        whole: false for a beginning, which may end inside a character.
    Raises:
        DocumentError: it is not text, or in no encoding that can be recognised.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise DocumentError(f"not text: it is {what} under another name")
    if b"\0" in data:
        rest = data.replace(b"\0", b"")  # a few in a log or an export: readers drop them
        if data.count(0) > 1 + len(data) / 10 or not _is_plain_utf8(rest):
            try:
                return _utf16_without_mark(data)
            except DocumentError:
                if data.count(0) >= len(data) / 1000:
                    raise
        data = rest
    # In EBCDIC nearly every letter is past ASCII, and "@" is its space.
    is_ebcdic = _count(rb"[\x80-\xff]", data) > len(data) / 4 and data.count(b" ") < len(data) / 100
    if is_ebcdic and data.count(b"@") > len(data) / 20 and _try_decode(data, "utf-8") is None:
        raise DocumentError("in EBCDIC, a mainframe's encoding: convert it to UTF-8")
    if _is_binary(data):
        raise DocumentError("not text: binary content")
    if re.search(rb"\x1b\$[@B]", data) and _try_decode(data, "iso2022_jp_2") is not None:
        return "iso2022_jp_2"
    if _is_utf8(data, whole=whole):
        return "utf-8"
    # Only lines with something to recognise: markup and ASCII lines dilute the evidence.
    lines = [line for line in re.split(rb"[\r\n]+", re.sub(rb"<[^<>]*>", b" ", data)) if not line.isascii()]
    sample = b"\n".join(lines[:-1] if len(lines) > 1 and not whole else lines)
    # é stands alone among ASCII letters, привет in a run.
    is_latin = _count(rb"[\x80-\xff]{2,}", sample) < _count(rb"[\x80-\xff]", sample) / 2
    found = _declared_encoding(sample, declared, is_latin=is_latin) or _guess(sample, is_latin=is_latin)
    if found is None:
        raise DocumentError("its encoding could not be recognised: save it as UTF-8")
    return found


def clean(text: str) -> str:
    """Line ends as \\n, no control characters, no byte order mark, nothing that UTF-8 cannot hold."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text.removeprefix("\ufeff"))  # terminal colours in logs
    text = re.sub(r"\r\n?|[\f\v\x85\u2028\u2029]", "\n", text)
    text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", "", text)
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


def script(char: str) -> str:
    """The writing system of a letter, "" for what is no letter; Chinese and Japanese count as one, "CJK"."""
    if not char.isalpha():
        return ""
    name = unicodedata.name(char, "?").split()[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH", "BOPOMOFO", "IDEOGRAPHIC") else name


def is_jumble(text: str) -> bool:
    """Writing systems change from letter to letter: bytes read by a wrong table, not a text in several languages."""
    scripts = [name for char in text[:20_000] if (name := script(char)) and name not in ("MODIFIER", "MICRO")]
    changes = sum(one != other for one, other in itertools.pairwise(scripts))
    return len(scripts) >= 10 and len(set(scripts)) >= 4 and changes > 0.3 * len(scripts)


def listed(numbers: list[int], *, word: str) -> str:
    """Places for a warning: [2, 12, 13] -> "pages 2, 12 and 13"; past the first five, how many more."""
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    if len(numbers) > 5:
        return f"{word}s {', '.join(map(str, numbers[:5]))} and {len(numbers) - 5} more"
    return f"{word}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _is_plain_utf8(data: bytes) -> bool:
    """Not so in UTF-16: most letters past ASCII have a byte there that UTF-8 has not, or a control character."""
    few_breaks = _count(rb"[\t-\r]", data) <= len(data) / 4
    return few_breaks and not _is_binary(data) and _try_decode(data, "utf-8") is not None


def _is_binary(data: bytes) -> bool:
    """More control characters than text has."""
    return _count(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]", data) > max(len(data) / 50, 1)


def _count(pattern: bytes, data: bytes) -> int:
    """How many bytes are in matches of the pattern."""
    return len(data) - len(re.sub(pattern, b"", data))


def _try_decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _utf16_without_mark(data: bytes) -> str:
    """UTF-16 by where the zero bytes are: in "A\\0" or "\\0A" one side has nearly all of them."""
    data = data[: len(data) // 2 * 2]
    even, odd = data[::2].count(0), data[1::2].count(0)
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    text = data[:100_000].decode(encoding, errors="replace")
    if min(even, odd) * 20 <= max(even, odd):
        strange = sum(unicodedata.category(char) in ("Cc", "Cn", "Co") and char not in "\t\n\r\f" for char in text)
        if (strange + text.count("\ufffd")) * 50 <= len(text) and not is_jumble(text):
            return encoding
    raise DocumentError("not text: binary content")


def _is_utf8(data: bytes, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
        return True
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
        bad = text.count("\ufffd")
        # No other encoding looks like UTF-8 by chance: these are a few damaged characters in it.
        return sum(char > "\x7f" for char in text) >= 5 * bad


def _declared_encoding(sample: bytes, declared: str | None, *, is_latin: bool) -> str | None:
    """What the file says, if its bytes read that way are writing of the kind that they look like."""
    try:
        name = codecs.lookup(declared or "").name
    except LookupError:
        return None
    encoding = _LABELS.get(name, name)
    text = _try_decode(sample, encoding)
    if text is None or name.startswith("utf"):  # bytes that are not UTF-8 do not become it by saying so
        return None
    foreign = [script(char) not in ("", "LATIN") for char in text if char > "\x7f"]
    is_alike = not any(foreign) if is_latin else sum(foreign) > 0.7 * len(foreign)
    is_a_mess = is_jumble(text) or re.search("[\x80-\x9f]", text)  # control characters, which nobody types
    return encoding if is_alike and not is_a_mess else None


def _guess(sample: bytes, *, is_latin: bool) -> str | None:
    import chardet

    # Curly quotes, dashes, ™ and § only: every Windows code page agrees.
    if is_latin and not re.search(rb"[\x80-\x90\x9a\x9c-\x9f\xc0-\xff]", sample):
        return "cp1252"
    candidates = _LATIN if is_latin else [*_OTHER, *_LATIN]
    found = {
        codecs.lookup(match["encoding"]).name: match["confidence"]
        for match in chardet.detect_all(sample[:100_000], include_encodings=candidates)
        if match["encoding"] is not None
    }
    fitting = {name: sure for name, sure in found.items() if _try_decode(sample, name) is not None}
    if not fitting:
        return None
    best = max(fitting, key=lambda name: fitting[name])
    # The likeliest by far, so it wins what is nearly a draw: on short texts its neighbours read as well.
    is_close = best in _NEIGHBOURS and fitting.get("cp1252", 0.0) >= NEARLY * fitting[best]
    return "cp1252" if is_close else best
