"""The views: what a person reads, what a click does, and that no text gets into HTML as anything but text."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from nbhelpers import widgets

EVIL = "<script>alert('x')</script> & \"$x$\""


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_messages_are_shown_literally_and_have_a_plain_twin() -> None:
    shown = widgets.show_messages(
        [{"role": "system", "content": "Sort.\n\n  Indented"}, {"role": EVIL, "content": f"{EVIL}</pre>"}]
    )
    html, _ = DisplayFormatter().format(shown)
    assert set(html) == {"text/html", "text/plain"}
    tags = Tags(html["text/html"])
    assert set(tags.tags) == {"div", "b", "pre"}
    assert tags.text == ["system", "Sort.\n\n  Indented", EVIL, f"{EVIL}</pre>"]
    assert html["text/plain"] == f"--- system ---\nSort.\n\n  Indented\n\n--- {EVIL} ---\n{EVIL}</pre>"


def test_displays_wrap_keep_the_themes_colours_and_make_no_formulas() -> None:
    table = pd.DataFrame({"text": ["from $5 to $6, a text too long for one line"]})
    for html in (
        widgets.show_messages([{"role": "user", "content": "$5"}]).html,
        widgets.show_texts(table, ["text"]).html,
    ):
        assert "white-space: pre-wrap" in html
        assert "mathjax_ignore" in html
        assert not re.search(r"(?<!-)color: (?!inherit)", html)
        assert not re.search(r"background(-color)?: (?!transparent)", html)


def test_printed_lines_stay_whole_and_are_no_html() -> None:
    html, _ = DisplayFormatter().format(widgets.show_lines(f"a   1\n{EVIL}"))
    tags = Tags(html["text/html"])
    assert set(tags.tags) == {"div", "pre"}
    assert tags.text == [f"a   1\n{EVIL}"]
    assert "font-family: monospace; white-space: pre;" in html["text/html"]  # columns stand under one another
    assert html["text/plain"] == f"a   1\n{EVIL}"


def test_short_columns_stay_on_one_line_and_long_ones_wrap() -> None:
    table = pd.DataFrame({"label": ["short words", "x"], "text": ["short", "long " * 9], "two": ["one\ntwo", ""]})
    heads = re.findall(r"<th [^>]*white-space: ([a-z-]+);", widgets.show_texts(table, list(table)).html)
    assert heads == ["pre", "pre-wrap", "pre-wrap"]


def test_a_small_table_is_shown_whole_with_its_figures_to_the_right() -> None:
    shown = widgets.show_table(pd.DataFrame({"class": [EVIL, "b"], "n": ["1,200", widgets.MISSING]}), note="of 2")
    tags = Tags(shown.html)
    assert tags.text == ["class", "n", EVIL, "1,200", "b", widgets.MISSING, "of 2"]
    assert "script" not in tags.tags
    assert re.findall(r"<th [^>]*text-align: (\w+)", shown.html) == ["start", "right"]
    breaks = re.findall(r"<t([hd]) [^>]*right; [^>]*white-space: (\w+)", shown.html)
    assert breaks == [("h", "normal"), ("d", "nowrap"), ("d", "nowrap")]  # a long head over short figures
    assert shown.plain.endswith("\n\nof 2")


def test_no_messages() -> None:
    assert repr(widgets.show_messages([])) == "no messages"


def test_texts_show_the_first_rows_and_how_many_there_are() -> None:
    table = pd.DataFrame({"text": [EVIL, "b", "c"], "label": ["x", None, "y"], "sure": [0.98765, float("nan"), 1]})
    shown = widgets.show_texts(table, ["label", "text", "sure"], 2)
    tags = Tags(shown.html)
    assert tags.text == [
        *("label", "text", "sure", "x", EVIL, "0.988"),
        *(widgets.MISSING, "b", widgets.MISSING, "2 of 3 rows"),
    ]
    assert "script" not in tags.tags
    assert shown.plain == f"label: x\ntext: {EVIL}\nsure: 0.988\n\nlabel: –\ntext: b\nsure: –\n\n2 of 3 rows"


def test_a_table_without_rows() -> None:
    shown = widgets.show_texts(pd.DataFrame({"text": []}), ["text"])
    assert shown.plain.endswith("0 of 0 rows")
    assert Tags(shown.html).text == ["text", "0 of 0 rows"]


@pytest.mark.parametrize("length", [10, 20, 21, 500])
def test_long_texts_lose_their_middle(length: int) -> None:
    text = ("begin" + "-" * length)[: length - 3] + "end"
    short = Tags(widgets.show_texts(pd.DataFrame({"t": [text]}), ["t"], max_chars=20).html).text[1]
    assert len(short) == min(length, 20)
    assert (short == text) == (length <= 20)
    assert short.startswith("begin")
    assert short.endswith("end")
    assert ("…" in short) == (length > 20)
