"""A slider for a share, by mouse and arrow keys: an anywidget, as that of ipywidgets has no name to be read out."""

from pathlib import Path

import anywidget
import traitlets

FRONT_END = Path(__file__).parent / "front_end"


class Slider(anywidget.AnyWidget):
    """From 0 to `most` in steps of 0.01.

    Attributes:
        label: what it sets.
        value: as it stands.
    """

    _esm = FRONT_END / "slider.js"
    _css = FRONT_END / "slider.css"
    label = traitlets.Unicode().tag(sync=True)
    value = traitlets.Float().tag(sync=True)
    most = traitlets.Float(1.0).tag(sync=True)
