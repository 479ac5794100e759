"""Iterations that an earlier kernel finished, so that a new one takes them up again in place of repeating them.

report.json says which there were and how they were made; that nothing has to be bought for them again is what the label
store says. A classifier that is no longer up to date is trained anew all the same (see iteration).
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nbhelpers.config import Config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import unanswered
from nbhelpers.run_folder import RunFolder


@dataclass(frozen=True)
class Earlier:
    """Rows of report.json by iteration; `chosen` is what a person chose for the iteration after the last."""

    rows: dict[int, dict[str, Any]]
    chosen: dict[str, str]

    def chosen_for(self, number: int) -> dict[str, str]:
        """The `balance` and `selection` that an iteration was made with, as far as they still hold."""
        row = self.rows.get(number, {})
        return {name: row[name] for name in self.chosen if name in row}


def read_earlier(config: Config, run: RunFolder) -> Earlier:
    """What report.json says of earlier iterations. A choice holds only while the config's own value is the same."""
    report = run.read_json(run.report, made_by="04_train") if run.report.exists() else {}
    before = (report.get("config") or {}).get("training") or {}
    chosen = {
        name: value
        for name, value in report.get("chosen", {}).items()
        if before.get(name) == getattr(config.training, name)
    }
    return Earlier({row["iteration"]: row for row in report.get("iterations", [])}, chosen)


def is_bought(row: dict[str, Any], pool: pd.DataFrame, *, rules: str, config: Config, store: LabelStore) -> bool:
    """Whether the store answers for all texts of an earlier iteration under today's rules, or knows why one does not.

    Args:
        row: the iteration's entry in report.json.
        pool: the chunks that may be trained on.
        rules, config, store: as for `label_chunks`.
    """
    texts = pool.set_index("chunk_id")["text"]
    chosen = [chunk_id for chunk_id in store.selected() if chunk_id in texts.index][: row["labels"]]
    table = pd.DataFrame({"chunk_id": chosen, "text": texts.loc[chosen].tolist()})
    failed = set(store.failures()["key"])
    missing = unanswered(table, size="small", rules=rules, config=config, store=store, but_for=failed)
    return len(chosen) == int(row["labels"]) and missing.empty
