"""Each figure is rendered, and tested for what a person sees: names, counts, nothing cut, nothing overlapping."""

import math
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from nbhelpers import pictures, plots
from nbhelpers.pictures import Picture
from nbhelpers.reliability import reliability_table

HOSTILE = [
    "$x$ and $\\frac{1}{2",
    "<script>alert('x')</script>",
    'a very long class name that goes on and on, with commas, "quotes" and more words than a label should have',
    "a very long class name that goes on and on, with commas, 'quotes' and more words than a label should have",
    "天气预报",
    "حالة الطقس",
    "_hidden\nline\x00\u202eevil",
    "",
]
CLASSES = {
    "2": ["ham", "spam"],
    "5": ["complaint", "praise", "question", "a rather long class name, with a comma and more", "other"],
    "8 hostile": HOSTILE,
    "20": [f"topic {i}, a name of usual length{' and then some more words' * (i % 3)}" for i in range(20)],
    "77": [f"banking_intent_{i}_card_payment_fee_charged_twice" for i in range(77)],
}
ITERATIONS = [
    {"iteration": i, "train_size": size, "accuracy": a, "accuracy_low": a - 0.09, "accuracy_high": min(a + 0.07, 1.0)}
    for i, size, a in [(1, 36, 0.62), (2, 54, 0.71), (3, 72, 0.95), (4, 90, 0.93)]
]


def confusion(classes: list[str]) -> pd.DataFrame:
    k = len(classes)
    counts = np.random.default_rng(0).poisson(3 / k, (k, k)) + 30 * np.eye(k, dtype=int)
    counts[1] = 0  # a class without a test text
    return pd.DataFrame(counts, index=classes, columns=classes)


def balance(classes: list[str], weight: float) -> pd.DataFrame:
    texts = np.arange(len(classes))[::-1] * 1234
    weights = [math.nan if n == 0 else weight + i % 3 for i, n in enumerate(texts)]
    return pd.DataFrame({"class": classes, "texts": texts, "share": texts / texts.sum(), "weight": weights})


def measures(classes: list[str]) -> pd.DataFrame:
    k = len(classes)
    values = np.random.default_rng(0).uniform(0.2, 1, (k, 3))
    values[0] = [math.nan, 0.0, math.nan]
    values[-1] = 1.0
    table = pd.DataFrame(values, columns=["precision", "recall", "f1"])
    return table.assign(**{"class": classes, "support": range(k)})


def labels(classes: list[str], n: int = 500) -> pd.Series:
    drawn = np.random.default_rng(0).choice(len(classes), n)
    return pd.Series([None if i % 50 == 0 else classes[c] for i, c in enumerate(drawn)], dtype=object)


def predictions(classes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"label": labels(classes), "probability": np.linspace(0.3, 1, 500)})


def report(classes: list[str]) -> dict:
    last = {"confusion": confusion(classes).to_numpy().tolist(), "per_class": [{"class": name} for name in classes]}
    return {
        "iterations": [*ITERATIONS[:-1], {**ITERATIONS[-1], **last}],
        "target": 0.9,
        "final": {"majority_baseline": 0.31},
    }


BY_CLASS: dict[str, Callable[[list[str]], Figure | Axes]] = {
    "class_shares": lambda classes: plots.class_shares(labels(classes), classes, title="Labels by the large LLM"),
    "class_balance": lambda c: plots.class_balance(
        {"none": balance(c, 1), "weights": balance(c, 2), "auto": balance(c, 2)}, chosen="auto"
    ),
    "confusion_matrix": lambda classes: plots.confusion_matrix(confusion(classes)),
    "per_class": lambda classes: plots.per_class(measures(classes)),
    "confidence_by_class": lambda classes: plots.confidence_by_class(predictions(classes), classes),
    "summary": lambda classes: plots.summary(report(classes), labels(classes)),
}


def figure_of(drawn: Figure | Axes) -> Picture:
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert isinstance(figure, Picture)
    return figure


@pictures.style()  # ticks are made when they are first asked for
def texts_of(figure: Figure) -> list[Text]:
    """The texts that are on the picture: a tick outside its axis's limits draws none."""
    ticks = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    shown = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
    }
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [t for t in texts if id(t) not in ticks or id(t) in shown]


def words(drawn: Figure | Axes) -> str:
    return "\n".join(t.get_text() for t in texts_of(figure_of(drawn)))


def faults(drawn: Figure | Axes) -> list[object]:
    """Texts that are cut off, pairs that overlap, and texts too small to read, in the picture as it is shown."""
    figure = figure_of(drawn)
    figure.draw_without_rendering()  # painting the pixels would take most of the time
    texts = texts_of(figure)
    box = np.array([t.get_window_extent().extents for t in texts])
    cut = ((box[:, :2] < 0) | (box[:, 2:] > figure.bbox.size)).any(axis=1)
    common = np.minimum(box[:, None, 2:], box[None, :, 2:]) - np.maximum(box[:, None, :2], box[None, :, :2])
    both = np.triu((common > 1.5).all(axis=2), 1)  # pixels; letters never fill their box to its edge
    pairs = [(texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(both)]
    return [*(texts[i].get_text() for i in np.flatnonzero(cut)), *pairs, *(t for t in texts if t.get_fontsize() < 7)]


@pytest.mark.parametrize(
    ("name", "classes"),
    [(name, classes) for name in BY_CLASS for classes in CLASSES],
)
def test_any_number_of_classes_is_legible(name: str, classes: str) -> None:
    figure = figure_of(BY_CLASS[name](CLASSES[classes]))
    assert faults(figure) == []
    assert len(figure.alt) > 30


@pytest.mark.parametrize("n", [1, 40, 200])
def test_reliability_is_legible_and_says_how_far_it_is_off(n: int) -> None:
    table = reliability_table(np.linspace(0.3, 1, n), [i % 5 != 0 for i in range(n)])
    drawn = plots.reliability(table, title="The classifier's confidence", right="has the large LLM's label")
    assert faults(drawn) == []
    assert f"{n:,} texts in {'one point' if len(table) == 1 else f'{len(table)} points'}" in words(drawn)


def test_reliability_puts_confidence_across_and_the_share_right_up() -> None:
    table = reliability_table([0.5] * 15 + [0.9] * 15, [True] * 3 + [False] * 12 + [True] * 12 + [False] * 3)
    ax = plots.reliability(table, title="T", right="is right")
    points = ax.lines[1].get_xydata()
    np.testing.assert_allclose(points, [[0.5, 0.2], [0.9, 0.8]])
    assert "is off by 20.0 %" in words(ax)
    assert "at 50.0 % 20.0 % (4.3 % to 48.1 %, n = 15)" in figure_of(ax).alt
    assert words(ax).count("n = 15") == 2


def test_reliability_leaves_the_numbers_out_where_the_points_are_too_close() -> None:
    table = reliability_table([0.8] * 15 + [0.97] * 15 + [0.99] * 15, [True] * 45)
    drawn = plots.reliability(table, title="T", right="is right")
    assert faults(drawn) == []
    assert "n = 15" not in words(drawn)


def test_reliability_without_confidences_says_so() -> None:
    assert "no confidences" in words(plots.reliability(reliability_table([], []), title="T", right="R"))


def test_the_legibility_check_finds_a_cut_an_overlap_and_small_letters() -> None:
    figure, (ax,) = pictures.new_picture(4, 3)
    ax.text(0.5, 0.5, "one text")
    ax.text(0.51, 0.5, "another text")
    figure.text(0.98, 0.5, "out of the picture")
    small = figure.text(0.3, 0.8, "small", fontsize=6)
    assert faults(figure) == ["out of the picture", ("one text", "another text"), small]


def test_class_shares_shows_counts_shares_failed_and_zero_classes() -> None:
    given = pd.Series(["a"] * 6 + ["b"] * 2 + [None, math.nan], dtype=object)
    shown = words(plots.class_shares(given, ["b", "a", "never"], title="T"))
    for text in ("2 (20 %)", "6 (60 %)", "0 (0 %)", "failed", "texts (share of all 10)"):
        assert text in shown
    assert shown.count("2 (20 %)") == 2  # class b, and the failed ones


def test_class_shares_shows_a_label_that_is_no_class() -> None:
    assert "not a class" in words(plots.class_shares(pd.Series(["a", "z"]), ["a", "b"], title="T"))


def test_classes_stand_in_the_configs_order() -> None:
    ax = plots.class_shares(pd.Series(["b", "b", "c"]), ["c", "a", "b"], title="T")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["c", "a", "b"]
    assert ax.yaxis_inverted()
    assert [round(bar.get_width()) for bar in ax.patches] == [1, 0, 2]


def test_a_class_has_one_look_everywhere() -> None:
    classes = CLASSES["77"][:8]
    colours = [colour for colour, _ in pictures.class_looks(classes).values()]
    shares = plots.class_shares(labels(classes), classes, title="T")
    left = plots.class_balance({"none": balance(classes, 1)}, chosen="none").axes[0]
    for ax in (shares, left):
        assert [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches[:8]] == colours


def test_confusion_matrix_counts_rows_down_columns_across() -> None:
    ax = plots.confusion_matrix(pd.DataFrame([[3, 1], [0, 5]], index=["a", "b"], columns=["a", "b"]))
    cells = {tuple(map(round, t.get_position())): t.get_text() for t in ax.texts if t.get_text().isdigit()}
    assert cells == {(0, 0): "3", (1, 0): "1", (0, 1): "0", (1, 1): "5"}  # (column, row)
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert "n = 4" in words(ax)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("LLM's label", "classifier's label")
    assert "Same label: 8 of 9 texts" in words(ax)


def test_an_error_in_thirty_is_seen_in_the_matrix() -> None:
    ax = plots.confusion_matrix(pd.DataFrame([[29, 1], [0, 30]], index=["a", "b"], columns=["a", "b"]))
    nothing, error = (ax.images[0].cmap(ax.images[0].norm(share))[0] for share in (0, 1 / 30))  # the red part
    assert nothing - error > 0.1


def test_a_summary_of_many_classes_names_those_mixed_up_most() -> None:
    classes = [f"class {i}" for i in range(21)]
    counts = 5 * np.eye(21, dtype=int)
    counts[3, 7], counts[4, 2] = 2, 1
    last = {"confusion": counts.tolist(), "per_class": [{"class": name} for name in classes]}
    content = {**report(classes), "iterations": [{**ITERATIONS[-1], **last}]}
    figure = plots.summary(content, labels(classes))
    assert "class 3\n→ class 7\nclass 4\n→ class 2" in words(figure)
    assert "2 of 7\n1 of 6" in words(figure)
    assert "class 3 taken for class 7 2 of 7; class 4 taken for class 2 1 of 6." in figure.alt


def test_confusion_matrix_says_whose_labels_it_compares() -> None:
    ax = plots.confusion_matrix(pd.DataFrame([[1]], index=["a"], columns=["a"]), rows="trained on", columns="said")
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("trained on", "said")
    assert pictures.alt_text(ax).startswith("Confusion matrix, trained on by said.")


def test_confusion_matrix_of_no_texts() -> None:
    assert words(plots.confusion_matrix(pd.DataFrame(0, index=list("abc"), columns=list("abc")))).count("n = 0") == 3


def test_a_figure_that_cannot_be_computed_is_marked_not_left_out() -> None:
    ax = plots.per_class(measures(["a", "b", "c"]))
    assert "undefined" in words(ax)
    assert "a precision –, recall 0.0 %, F1 –" in pictures.alt_text(ax)
    assert "undefined" not in words(plots.per_class(measures(["a", "b", "c"]).iloc[1:]))


def test_learning_curve_draws_the_interval_target_and_baseline() -> None:
    ax = plots.learning_curve(ITERATIONS, target=0.9, majority_baseline=0.31)
    ends = [segment[:, 1].tolist() for segment in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose(ends[0], [0.53, 0.69])
    heights = {line.get_ydata()[0] for line in ax.get_lines() if len(set(line.get_ydata())) == 1}
    assert {0.9, 0.31} <= heights
    shown = words(ax)
    assert "target 90.0 %" in shown
    assert "frequent class 31.0 %" in shown


def test_a_copy_is_ringed_not_drawn_as_a_point_of_its_own() -> None:
    ax = plots.learning_curve(
        [*ITERATIONS, {**ITERATIONS[1], "iteration": 5, "copy_of": 2}], target=0.9, majority_baseline=0.31
    )
    assert ax.containers[0].lines[0].get_xdata().tolist() == [36, 54, 72, 90]
    assert "iteration 2, kept as classifier 5" in words(ax)
    ring = [line for line in ax.get_lines() if line.get_markersize() > 12]
    assert (ring[0].get_xdata()[0], ring[0].get_ydata()[0]) == (54, 0.71)


def test_a_single_iteration_is_a_smaller_picture_that_tells_the_interval() -> None:
    one = plots.learning_curve(ITERATIONS[:1], target=0.9, majority_baseline=0.31)
    many = plots.learning_curve(ITERATIONS, target=0.9, majority_baseline=0.31)
    assert "62.0 % (53.0 % to 69.0 %)" in words(one)
    assert "One iteration" in one.get_title(loc="left")
    assert one.get_xlim()[0] < 36 < one.get_xlim()[1]
    assert "(53.0 %" not in words(many)
    assert figure_of(one).get_figwidth() < figure_of(many).get_figwidth()


@pytest.mark.parametrize(
    ("iterations", "target", "baseline"),
    [
        (ITERATIONS[:1], 0.9, 0.88),
        (ITERATIONS, 0.9, 0.92),
        ([*ITERATIONS[:1], {**ITERATIONS[0], "iteration": 2, "copy_of": 1}], 0.7, 0.7),
        ([{**ITERATIONS[0], "accuracy": 1.0, "accuracy_high": 1.0}], 1.0, 0.99),
        ([{**ITERATIONS[0], "accuracy": 0.0, "accuracy_low": 0.0}], 0.05, 0.02),
        ([{**ITERATIONS[0], "train_size": 40 + i} for i in range(30)], 0.9, 0.1),
        ([{**ITERATIONS[0], "train_size": 40} for i in range(3)], 0.9, 0.1),
    ],
)
def test_learning_curves_of_every_kind_are_legible(iterations, target, baseline) -> None:
    assert faults(plots.learning_curve(iterations, target=target, majority_baseline=baseline)) == []


def test_file_fates_counts_by_format() -> None:
    rows = [("txt", "read")] * 3 + [("txt", "skipped"), ("pdf", "partly read"), ("", "skipped"), ("$x$", "read")]
    ax = plots.file_fates(pd.DataFrame(rows, columns=["format", "status"]))
    shown = words(ax)
    for text in (
        "3 read, 1 skipped",
        "1 partly read",
        "7 files: 4 read, 1 partly read, 2 skipped",
        "(no suffix)",
        ".$x$",
    ):
        assert text in shown.replace("\n", " ")
    assert faults(ax) == []


def test_chunk_lengths_says_how_many_each_limit_cuts() -> None:
    chunks = pd.DataFrame(
        {"text": ["a" * 10, "b" * 50, "c" * 50], "tokens": [3, 20, 21], "truncated": [False, True, False]}
    )
    figure = figure_of(plots.chunk_lengths(chunks, max_chars=50, token_limit=20))
    assert "Limit 50 characters:\n1 of 3 texts cut" in words(figure)
    assert "Limit 20 tokens:\n1 of 3 texts cut" in words(figure)
    assert [line.get_xdata()[0] for ax in figure.axes for line in ax.get_lines()] == [50, 20]
    assert faults(figure) == []


def test_class_balance_marks_the_choice_and_draws_the_weights() -> None:
    tables = {"none": balance(["a", "b"], 1), "weights": balance(["a", "b"], 3)}
    figure = figure_of(plots.class_balance(tables, chosen="weights"))
    assert "weights (chosen)" in words(figure)
    drawn = {line.get_label(): line.get_xdata()[0] for line in figure.axes[1].get_lines()}
    assert drawn["none"] == 1
    assert drawn["weights (chosen)"] == 3


def test_confidence_counts_what_it_does_not_show() -> None:
    table = pd.DataFrame({"label": ["a", "a", "b", None], "probability": [0.9, math.nan, 0.5, 0.4]})
    shown = words(plots.confidence_by_class(table, ["a", "b", "c"]))
    assert "Confidence of 2 of 4 predictions" in shown
    assert shown.count("n = 1") == 2
    assert "n = 0" in shown


def test_confidence_draws_each_text_below_its_class_s_box_in_the_class_s_colour() -> None:
    classes = ["news", "sport", "weather", "none of them"]
    given = pd.Series(["news"] * 259 + ["sport"] * 134 + ["weather"] * 46 + ["none of them"] * 7)
    table = pd.DataFrame({"label": given, "probability": np.linspace(0.4, 1, 446)})
    ax = plots.confidence_by_class(table, classes)
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [259, 134, 46, 7]
    colours = [look[0] for look in pictures.class_looks(classes).values()]
    for y, (line, colour, box) in enumerate(zip(dots, colours, ax.patches, strict=True)):
        assert line.get_color() == colour
        assert mpl.colors.to_hex(box.get_facecolor()).upper() == colour
        assert y - 0.5 < box.get_y() < box.get_y() + box.get_height() < min(line.get_ydata())
        assert max(line.get_ydata()) < y + 0.5
        np.testing.assert_allclose(
            [box.get_x(), box.get_x() + box.get_width()],
            table["probability"][given == classes[y]].quantile([0.25, 0.75]),
        )


def test_confidence_says_when_not_every_text_has_a_dot() -> None:
    table = pd.DataFrame({"label": "a", "probability": np.linspace(0.4, 1, 301)})
    ax = plots.confidence_by_class(table, ["a", "b"])
    assert "at most 300 of a class" in ax.get_xlabel()
    assert [len(line.get_xdata()) for line in ax.get_lines() if line.get_marker() == "o"] == [300]
    assert "at most" not in plots.confidence_by_class(table[:300], ["a", "b"]).get_xlabel()


def test_agreement_and_truth_shows_values_intervals_and_n() -> None:
    ax = plots.agreement_and_truth({"agrees with the LLM": (0.8, 0.7, 0.9, 120), "right": (1.0, 0.5, 1.0, 1234)})
    assert "80.0 % (70.0 % to 90.0 %)\nn = 120" in words(ax)
    assert "100.0 % (50.0 % to 100.0 %)\nn = 1,234" in words(ax)
    assert faults(ax) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.file_fates(pd.DataFrame({"format": [], "status": []})),
        lambda: plots.chunk_lengths(
            pd.DataFrame({"text": pd.Series([], dtype=str), "tokens": [], "truncated": []}), max_chars=9, token_limit=9
        ),
        lambda: plots.class_shares(pd.Series([], dtype=object), ["a", "b"], title="T"),
        lambda: plots.class_balance(
            {"none": balance(["a", "b"], 1).assign(texts=0, share=math.nan, weight=math.nan)}, chosen="none"
        ),
        lambda: plots.per_class(measures(["a", "b"])[:0]),
        lambda: plots.confidence_by_class(pd.DataFrame({"label": [], "probability": []}), ["a", "b"]),
        lambda: plots.agreement_and_truth({}),
    ],
)
def test_zero_rows_are_a_picture_too(draw: Callable[[], Figure | Axes]) -> None:
    assert faults(draw()) == []


def test_names_are_shown_as_they_are() -> None:
    ax = plots.class_shares(pd.Series(["$x$"]), ["$x$", "<script>"], title="$y$ & more")
    assert faults(ax) == []
    assert [t.get_text() for t in ax.get_yticklabels()] == ["$x$", "<script>"]
    assert not any(t.get_parse_math() for t in texts_of(figure_of(ax)))
