"""Choose how rare classes are treated and which texts are bought next; static twins: `class_overview`, a figure.

A choice acts from the next iteration on (see Rounds.choose). The config's value stands beside it, and is changed only
by "Save to config".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbhelpers.config_file import save_value
from nbhelpers.errors import NbhelpersError
from nbhelpers.rounds import Rounds
from nbhelpers.selection import kinds
from nbhelpers.training import describe_balance
from nbhelpers.widget_parts import button, frame, row, words
from nbhelpers.widgets import MISSING, Shown, show_table

if TYPE_CHECKING:
    import ipywidgets

BALANCES = {
    "auto": "As weights where the commonest class has eight times the texts of the rarest or more, else as none.",
    "none": "Every text counts the same. Frequent classes are learned best, and a rare one may never be predicted. "
    "Probabilities are not corrected for the class shares of the pool, either.",
    "weights": "A text of a rare class counts more: its class is found more often, with more false alarms.",
}
SELECTIONS = {
    "auto": "A fifth of each batch is random; the rest are hard to tell, likely rare, or unlike any labelled text.",
    "random": "All texts are drawn at random. Rare classes stay as rare as they are; nothing is chased.",
}
ITERATIONS = 3  # the last ones, whose recall is shown


def class_overview(rounds: Rounds, balance: str | None = None) -> Shown:
    """Each class in a row: texts to train on, estimated share of the pool, weight, and recall in the last iterations.

    Args:
        rounds: with at least one iteration done.
        balance: whose weights to show; without it, those of the next iteration.
    """
    trained = describe_balance(rounds.class_counts(), balance or rounds.balance)
    pool = rounds.pool_shares()
    made = [iteration.row for iteration in rounds.done if "copy_of" not in iteration.row][-ITERATIONS:]
    table = pd.DataFrame(
        {
            "class": trained["class"],
            "to train on": [f"{n:,}" for n in trained["texts"]],
            "share": [_percent(share) for share in trained["share"]],
            "share of the pool": [
                f"{_percent(share)} ({_percent(low)} to {_percent(high)})"
                for share, low, high in zip(pool["share"], pool["low"], pool["high"], strict=True)
            ],
            "weight of a text": [MISSING if pd.isna(weight) else f"{weight:.2f}" for weight in trained["weight"]],
            **{_heading(each): _recalls(each) for each in made},
        }
    )
    return show_table(table, note=_note(rounds))


def balance_widget(rounds: Rounds, config_file: Path | None) -> ipywidgets.Widget:
    """Buttons for `training.balance` and `training.selection`, and what they do to the classes.

    Args:
        rounds: with at least one iteration done.
        config_file: what "Save to config" changes; None where the parameters came from elsewhere.
    """
    import ipywidgets

    training = rounds.config.training
    configured: dict[str, str] = {"balance": training.balance, "selection": training.selection}
    balance = _buttons("balance", BALANCES, rounds.balance)
    selection = _buttons("selection", SELECTIONS, rounds.selection)
    save = button("Save to config", tooltip="Writes both choices into the config file; nothing else in it changes")
    save.disabled = config_file is None
    why_balance, why_selection, table, said = (ipywidgets.HTML() for _ in range(4))

    def choose(_: Any) -> None:
        try:
            rounds.choose(balance=balance.value, selection=selection.value)
        except NbhelpersError as error:  # another run holds the folder
            said.value = words(f"{error} Your choice holds in this notebook alone.", failed=True)
            return
        show()

    def show() -> None:
        why_balance.value = words(f"{BALANCES[balance.value]} (config: {configured['balance']})")
        why_selection.value = words(f"{SELECTIONS[selection.value]} (config: {configured['selection']})")
        table.value = class_overview(rounds).html
        said.value = words(_compare(rounds, configured), quiet=True)

    def write(_: Any) -> None:
        if config_file is None:
            return
        try:
            for name in configured:
                save_value(config_file, "training", name, getattr(rounds, name))
                configured[name] = getattr(rounds, name)
        except NbhelpersError as error:
            said.value = words(str(error), failed=True)
            return
        show()
        said.value = words("Saved. A run with that config trains every iteration so; labels are kept.")

    balance.observe(choose, names="value")
    selection.observe(choose, names="value")
    save.on_click(write)
    rounds.watchers["balance"] = show
    show()
    return frame(
        "Class balance, from the next iteration on",
        [balance, why_balance, selection, why_selection, table, row([save, said])],
    )


def _buttons(name: str, choices: dict[str, str], chosen: str) -> ipywidgets.ToggleButtons:
    import ipywidgets

    return ipywidgets.ToggleButtons(
        options=list(choices),
        value=chosen,
        description=name,
        tooltips=list(choices.values()),
        style=ipywidgets.ToggleButtonsStyle(button_width="auto"),
    )


def _compare(rounds: Rounds, configured: dict[str, str]) -> str:
    other = [f"{name}: {getattr(rounds, name)}" for name, value in configured.items() if getattr(rounds, name) != value]
    return f"The next iteration uses {' and '.join(other)}, unlike the config." if other else "As the config says."


def _note(rounds: Rounds) -> str:
    """How the last batch was chosen, and what the columns are made from."""
    why = rounds.store.selection()
    last = why[why["chunk_id"].isin(rounds.last_batch)]["why"]
    chosen = ", ".join(f"{n} {kind}" for kind, n in kinds(last).value_counts().items()) or "no new texts"
    return (
        f"Last batch: {chosen}. Share of the pool: with its 95 % interval, from texts drawn at random. "
        "Recall: the share of so many test texts that was found."
    )


def _heading(each: dict[str, Any]) -> str:
    return f"recall, iteration {each['iteration']} ({each['balance']})"


def _recalls(each: dict[str, Any]) -> list[str]:
    return [
        MISSING if one["recall"] is None else f"{_percent(one['recall'])} of {one['support']:,}"
        for one in each["per_class"]
    ]


def _percent(share: float) -> str:
    return MISSING if pd.isna(share) else f"{share:.0%}".replace("%", " %")
