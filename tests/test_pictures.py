"""Pictures are saved, shown and named: what is in the files, what a notebook gets, and how long names are cut."""

import io
import math
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from nbhelpers import pictures
from nbhelpers.pictures import rounded_percent

ALT = 'Rows & <columns> "quoted", 天气'


@pictures.style()
def drawn(title: str = "$x$ & 天气") -> pictures.PictureAxes:
    fig, (ax,) = pictures.new_picture(3, 2)
    fig.alt = ALT
    pictures.class_bars(ax, ["a", "b"], [1, 2])
    pictures.name_rows(ax, ["a", "b"])
    ax.imshow([[0, 1]])
    ax.set_title(title)
    return ax


def test_saved_files_carry_the_alt_text_and_are_the_same_twice(tmp_path) -> None:
    first = pictures.save_figure(drawn(), tmp_path / "a" / "new", "name & <more>")
    again = pictures.save_figure(drawn(), tmp_path / "b", "name & <more>")
    other = pictures.save_figure(drawn("other"), tmp_path / "c", "name & <more>")
    png, svg = first
    assert sorted((tmp_path / "a" / "new").iterdir()) == [png, svg]
    assert [p.name for p in first] == ["name & <more>.png", "name & <more>.svg"]
    with Image.open(png) as image:
        assert image.text["Description"] == ALT
        assert image.size == (450, 300)
        assert round(image.info["dpi"][0]) == 150
    root = ET.fromstring(svg.read_bytes())
    assert [child.tag.split("}")[1] for child in root[:2]] == ["title", "desc"]
    assert [root[0].text, root[1].text] == ["name & <more>", ALT]
    assert root.get("role") == "img"
    assert b"<text" not in svg.read_bytes()  # letters are paths: no font is needed to see them
    assert b"dc:date" not in svg.read_bytes()
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert [p.read_bytes() for p in first] != [p.read_bytes() for p in other]


def test_a_notebook_shows_it_once_with_alt_text_and_sharp() -> None:
    ax = drawn()
    for shown, metadata in map(DisplayFormatter().format, (ax, ax.get_figure())):
        assert set(shown) == {"text/html", "image/png", "text/plain"}
        assert shown["text/plain"] == ALT
        assert metadata["image/png"] == {"width": 288, "alt": ALT}
        with Image.open(io.BytesIO(shown["image/png"])) as image:
            assert image.width == 2 * 288
        element = BeautifulSoup(shown["text/html"], "lxml").img  # JupyterLab drops the alt text of an image/png
        assert element is not None
        assert (element["alt"], element["width"]) == (ALT, "288")
        assert str(element["src"]).startswith("data:image/png;base64,")


def test_pyplot_and_the_settings_are_left_alone() -> None:
    import matplotlib.pyplot as plt

    before, open_before = dict(mpl.rcParams), plt.get_fignums()
    mpl.rcParams["font.size"] = 31
    try:
        ax = drawn()
        assert ax.title.get_fontsize() == 12
        assert not ax.title.get_parse_math()
        pictures.png_bytes(ax)
        assert mpl.rcParams["font.size"] == 31
    finally:
        mpl.rcParams["font.size"] = before["font.size"]
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_before


def test_77_classes_have_77_looks_and_each_keeps_its_own() -> None:
    classes = [f"class {i}" for i in range(77)]
    looks = pictures.class_looks(classes)
    assert len(set(looks.values())) == 77
    assert list(pictures.class_looks(classes[:9]).items()) == list(looks.items())[:9]


@pytest.mark.parametrize(
    ("name", "width", "lines", "expected"),
    [
        ("ham", 10, 1, "ham"),
        ("science & technology", 10, 2, "science &\ntechnology"),
        ("abcdefghijkl", 8, 2, "abcdef\nghijkl"),
        ("first words, many in the middle, last words", 13, 2, "first words,\n… last words"),
        ("abcdefghijklmnop", 10, 1, "abcdef…nop"),
        ("天气预报天气", 8, 2, "天气预\n报天气"),
        ("", 12, 1, "(empty name)"),
        ("\ud800", 10, 1, "\ufffd"),
        ("a\n\x00b\u202ec", 10, 1, "a bc"),
    ],
)
def test_long_names_are_wrapped_then_cut_in_the_middle(name: str, width: int, lines: int, expected: str) -> None:
    assert pictures.fit_name(name, width, lines) == expected


def test_names_that_are_cut_alike_are_told_apart() -> None:
    names = [f"the same long beginning {i} and the same long end" for i in range(3)]
    assert len(set(pictures.fit_names(names, 20, 1))) == 3
    assert "1" in pictures.fit_names(names, 30, 1)[1]
    assert pictures.fit_names(["x" * 30 + "a" + "y" * 30, "x" * 30 + "b" + "y" * 30], 20, 1)[1].endswith("[2]")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1 / 200, "< 1 %"),
        (0.0051, "1 %"),
        (0.5, "50 %"),
        (199 / 200, "> 99 %"),
        (1, "100 %"),
        (math.nan, "–"),
    ],
)
def test_only_none_is_0_percent_and_only_all_is_100(share: float, said: str) -> None:
    assert rounded_percent(share) == said


def test_words_name_twelve_and_count_the_rest() -> None:
    pairs = [(f"class {i}", str(i)) for i in range(14)]
    assert pictures.listed(pairs[:2]) == "class 0 0; class 1 1."
    assert pictures.listed(pairs).endswith("; class 11 11; and 2 more.")
    assert pictures.listed([]) == "no class."


def test_on_a_dark_page_ink_and_paper_change_places_and_classes_keep_their_colours() -> None:
    with pictures.style():
        _, (ax,) = pictures.new_picture(3, 2)
        pictures.class_bars(ax, ["a", "b"], [1, 2])
        ax.set_title("T")
    light = pictures.svg_bytes(ax, "t")
    dark = pictures.for_dark_page(light)
    assert dark is not None
    before, after = light.decode().lower(), dark.decode().lower()
    for old, new in ((pictures.INK, "#e4eaef"), ("#ffffff", "#12181d")):
        assert after.count(new) == before.count(old) > 0
        assert old not in after
    blue = pictures.COLOURS[0].lower()
    assert after.count(blue) == before.count(blue) > 0


def test_a_picture_of_pixels_has_no_dark_twin() -> None:
    assert pictures.for_dark_page(pictures.svg_bytes(drawn(), "t")) is None
