import codecs

import pytest
from documents_made import CHINESE, FRENCH, JAPANESE, QUOTES, RUSSIAN
from hypothesis import example, given
from hypothesis import strategies as st

from nbhelpers.encodings import clean, decode
from nbhelpers.errors import DocumentError

CENTRAL = [
    "Děkuji moc, bylo to skvělé.",
    "Příští rok se určitě vrátíme.",
    "Köszönöm szépen, nagyon jó volt az őszi hétvége.",
    "Pokój był mały, ale czysty.",
]
SHORT_JAPANESE = ["ホテルの朝食はとても美味しかったです。", "また来年も家族で利用したいと思います。"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (QUOTES, "cp1252"),
        ("“Hello” – it’s café time", "cp1252"),
        ("naïve café", "cp1252"),
        ("Die Straße ist schön, aber über Ärger spricht man nicht.", "cp1252"),
        ("El niño comió mañana en España, ¿verdad?", "cp1252"),
        ("Das kostet 5 € am Tag, sagt sie.", "cp1252"),
        (FRENCH, "iso-8859-1"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy a já to vím.", "cp1250"),
        *((text, name) for text in CENTRAL for name in ("cp1250", "iso8859_2")),
        ("Işık ılık süt iç, şöyle böyle güzel bir gün.", "cp1254"),
        ("החדר היה קטן אבל נקי מאוד.", "cp1255"),
        ("L'hôtel était très agréable.", "cp1252"),
        ("Rummet var litet men rent, och frukosten var jättegod.", "cp1252"),
        ("Não gostei do quarto, mas o café da manhã estava ótimo.", "cp1252"),
        *((text, "shift_jis") for text in SHORT_JAPANESE),
        (FRENCH, "mac_roman"),
        (FRENCH, "cp850"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (CHINESE, "gb18030"),
        ("안녕하세요 세계. 이것은 평범한 한국어 텍스트입니다.", "cp949"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        (RUSSIAN, "iso8859_5"),
        ("Το γρήγορο καφέ αλεπού πηδάει πάνω από το σκυλί και τρέχει.", "cp1253"),
        *((text, name) for text in (QUOTES, RUSSIAN, JAPANESE) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-32")),
        *((text, name) for text in (QUOTES, JAPANESE + "\n") for name in ("utf-16-le", "utf-16-be")),
        ("plain ASCII", "ascii"),
    ],
)
@pytest.mark.parametrize("times", [1, 40])
def test_encodings_are_recognised(text, encoding, times):
    whole = "\n".join([text] * times)
    decoded, named = decode(whole.encode(encoding))
    assert decoded == whole
    assert codecs.lookup(named)


def test_a_stray_zero_byte_makes_no_binary():
    text = "A line of an export with an é in it.\n" * 60
    data = text.encode("cp1252")
    decoded, named = decode(data[:700] + b"\0" + data[700:])
    assert named == "cp1252"
    assert clean(decoded) == text


@pytest.mark.parametrize("text", ["Ok", "Ok then", "A naïve café", "Привет, мир", "text,label\nGood,praise\n"])
def test_nor_does_one_make_a_short_text_chinese(text):
    for data in (text.encode() + b"\0", b"\0" + text.encode()):
        decoded, named = decode(data)
        assert (clean(decoded), named) == (text, "utf-8")


@pytest.mark.parametrize(
    "text", ["Bonjour, monde", "Привет, мир", "नमस्ते दुनिया", "ਸਤ ਸ੍ਰੀ ਅਕਾਲ", "宿泊しました。\n", "여행 후기", "Γειά σου"]
)
@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_short_utf16_without_a_mark_is_recognised(text, times, encoding):
    assert decode((text * times).encode(encoding)) == (text * times, encoding)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_may_have_few_zero_bytes(encoding):
    text = "\n".join(["また来年も家族で利用したいと思います。" * 60] * 4)
    assert text.encode(encoding).count(0) < len(text.encode(encoding)) / 1000
    assert decode(text.encode(encoding)) == (text, encoding)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_give_clean_text_or_a_reason(data):
    try:
        text, _ = decode(data)
    except DocumentError:
        return
    cleaned = clean(text)
    assert "\0" not in cleaned
    assert "\r" not in cleaned
    assert cleaned.encode().decode() == cleaned


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
@example("@\xa0")  # a third of it is EBCDIC's space
def test_utf8_always_reads_as_utf8(text):
    if text.encode().startswith((b"%PDF-", b"GIF8", b"{\\rtf")) or text.startswith("\ufeff"):
        return
    assert decode(text.encode()) == (text, "utf-8")
