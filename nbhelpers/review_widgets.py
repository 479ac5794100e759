"""The review queue and the confusion matrix that opens, for a browser: a front end to `review`, by anywidget.

Python owns the state. The browser gets it as one trait, `view`, and sends back what the person does; it decides and
keeps nothing, so running the cell again, even in a new kernel, goes on where it was. Every text is set as text, never
as HTML. ipywidgets has neither keys nor a grid of buttons that one walks with arrow keys, hence anywidget.
"""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbhelpers.errors import NbhelpersError
from nbhelpers.review import Matrix, Message, Queue

FRONT_END = Path(__file__).parent / "front_end"


class ReviewWidget(anywidget.AnyWidget):
    """A queue or a matrix to work with; static twins are its table of texts and `plots.confusion_matrix`.

    Attributes:
        view: what the queue or matrix shows, and `said` (a sentence for the person), `failed` (whether it tells of an
            error) and `answered` (how many messages have been).
    """

    _esm = FRONT_END / "review.js"
    _css = FRONT_END / "review.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, shown: Queue | Matrix) -> None:
        self._review = shown
        super().__init__(view=self._seen("", answered=0))
        self.on_msg(self._answer)

    def _answer(self, _: Any, message: Message, __: Any) -> None:
        answered = self.view["answered"] + 1
        try:
            self.view = self._seen(self._review.act(message), answered=answered)
        except NbhelpersError as error:  # in a callback it would only reach the log
            self.view = {**self.view, "said": f"Not stored: {error}", "failed": True, "answered": answered}

    def _seen(self, said: str, *, answered: int) -> dict[str, Any]:
        return {**self._review.view(), "said": said, "failed": False, "answered": answered}
