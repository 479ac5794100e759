"""The widget's side in Python: a message in, what there is to see out; the browser's side is in tests/browser."""

import re

import pandas as pd
import pytest

from nbhelpers.label_store import LabelStore
from nbhelpers.review import Queue
from nbhelpers.review_widgets import FRONT_END, ReviewWidget


@pytest.fixture
def widget(store: LabelStore) -> ReviewWidget:
    texts = pd.DataFrame({"chunk_id": ["a", "b"], "text": ["<b>bold</b>", "$x$"], "label": "no", "source": "small"})
    return ReviewWidget(Queue(texts, title="Two", classes=["no", "yes"], store=store, note="review"))


def send(widget: ReviewWidget, **message: object) -> dict[str, object]:
    widget._handle_custom_msg(message, [])
    return dict(widget.view)


def test_every_message_is_answered_and_the_label_is_stored_before(widget: ReviewWidget, store: LabelStore) -> None:
    assert (widget.view["text"], widget.view["answered"]) == ("<b>bold</b>", 0)
    view = send(widget, do="choose", chunk_id="a", **{"class": 0})  # class 0 is a class
    assert store.human_labels() == {"a": "no"}
    assert (view["said"], view["failed"], view["text"], view["answered"]) == ("Stored: no.", False, "$x$", 1)
    view = send(widget, do="move", step=1)  # to where it is already
    assert (view["text"], view["answered"]) == ("$x$", 2)


def test_a_label_that_could_not_be_stored_says_so_and_stays_open(widget: ReviewWidget, store: LabelStore) -> None:
    store._db.execute("DROP TABLE human_labels")
    view = send(widget, do="choose", chunk_id="a", **{"class": 1})
    assert view["failed"] is True
    assert str(view["said"]).startswith("Not stored: ")
    assert (view["text"], view["answered"]) == ("<b>bold</b>", 1)


def test_no_text_gets_into_the_page_as_html() -> None:
    script = (FRONT_END / "review.js").read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment", script
    )
