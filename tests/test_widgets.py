"""The views: what a person reads, what a click does, and that no text gets into HTML as anything but text."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from nbhelpers import widgets

EVIL = "<script>alert('x')</script> & \"$x$\""


def describe(counts, balance):
    weight = {"none": 1.0, "weights": 2.5, "auto": 1.25}[balance]
    total = sum(counts.values())
    rows = [(c, n, n / total if total else float("nan"), weight if n else float("nan")) for c, n in counts.items()]
    return pd.DataFrame(rows, columns=["class", "texts", "share", "weight"])


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


def parts(widget):
    buttons, words, table, picture = widget.children
    return buttons, words, table, picture


def test_the_configs_balance_is_marked_and_chosen_first() -> None:
    buttons, words, table, picture = parts(
        widgets.class_balance_widget({"a": 3, "b": 1}, "auto", print, describe=describe)
    )
    assert buttons.value == "auto"
    assert dict(buttons.options) == {"none": "none", "weights": "weights", "auto (config)": "auto"}
    assert "classes differ a lot" in words.value
    assert Tags(table.value).text == [
        *("class", "texts", "share", "weight"),
        *("a", "3", "75.0 %", "1.25"),
        *("b", "1", "25.0 %", "1.25"),
    ]
    assert re.search(r'<img src="data:image/png;base64,[^"]+" alt="Class balance\. a 3 \(75 %\); b 1', picture.value)


def test_choosing_updates_the_view_and_calls_back_once() -> None:
    chosen = []
    widget = widgets.class_balance_widget({"a": 3, "b": 1}, "auto", chosen.append, describe=describe)
    buttons, words, table, picture = parts(widget)
    assert chosen == []
    before = picture.value
    buttons.value = "weights"
    assert chosen == ["weights"]
    assert "2.50" in table.value
    assert "weights" in words.value
    assert picture.value != before
    buttons.value = "weights"
    assert chosen == ["weights"]
    buttons.value = "auto"
    assert chosen == ["weights", "auto"]
    assert picture.value == before


def test_the_default_table_is_the_one_that_training_uses() -> None:
    *_, table, _ = parts(widgets.class_balance_widget({"a": 90, "b": 10}, "none", print))
    assert Tags(table.value).text[4:] == ["a", "90", "90.0 %", "1.00", "b", "10", "10.0 %", "1.00"]


def test_classes_without_texts_and_hostile_names_are_shown_as_text() -> None:
    *_, table, picture = parts(widgets.class_balance_widget({EVIL: 0, "b": 0}, "none", print, describe=describe))
    assert "script" not in Tags(table.value).tags + Tags(picture.value).tags
    assert EVIL in Tags(table.value).text
    assert Tags(picture.value).tags == ["img"]
    assert widgets.MISSING in Tags(table.value).text


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


def test_short_columns_stay_on_one_line_and_long_ones_wrap() -> None:
    table = pd.DataFrame({"label": ["short words", "x"], "text": ["short", "long " * 9], "two": ["one\ntwo", ""]})
    heads = re.findall(r"<th [^>]*white-space: ([a-z-]+);", widgets.show_texts(table, list(table)).html)
    assert heads == ["pre", "pre-wrap", "pre-wrap"]


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
