"""A person's edit of the rules: what changes, what it makes stale, what five texts look like by it, keep or not.

Nothing is written before `keep`. Tried labels go through the label store, so none is paid for twice. The texts to try
are those that the draw of the test set comes to last, so that no rule is made to fit a test text.
"""

import difflib
from typing import Any

import pandas as pd

from nbhelpers.config import Config, Size
from nbhelpers.errors import ConfigError
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, label_prompt, read_test_labels, unanswered
from nbhelpers.lock import one_step
from nbhelpers.plan import plan_labels
from nbhelpers.rules import edit_rules, read_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import random_order
from nbhelpers.stages import STAGES, what_changed

TRIED = 5
BESIDE = 40  # texts that a local model labels, which costs nothing: its scores are compared over all of them
CHARACTERS_PER_TOKEN, ANSWER_TOKENS = 4, 100


class RulesEdit:
    """The rules of a run folder, and an edit of them.

    Args:
        config, run, store: whose rules, who is asked, and where answers are kept.
    """

    def __init__(self, config: Config, run: RunFolder, store: LabelStore) -> None:
        self.config, self.run, self.store = config, run, store
        self.sizes: tuple[Size, ...] = ("small",) if config.same_llm else ("small", "large")
        self.kept = read_rules(run)

    def diff(self, text: str) -> list[str]:
        """The lines that go ("-") and come ("+"), with a line of what stays around them; empty for the same rules."""
        lines = difflib.unified_diff(self.kept.splitlines(), text.strip().splitlines(), lineterm="", n=1)
        return list(lines)[2:]  # without the two file names

    def stale(self) -> list[str]:
        """The steps that are up to date now, and would not be with other rules."""
        return [
            stage.name
            for stage in STAGES
            if not what_changed(stage, self.config, self.run) and "rules" in stage.inputs(self.config, self.run)
        ]

    def stale_labels(self) -> dict[str, int]:
        """How many labels by an LLM these steps would ask for again, by what they are for; a person's labels stay."""
        steps, found = self.stale(), {}
        if "03_test_labels" in steps:
            found["test labels"] = len(read_test_labels(self.run))
        if "04_train" in steps:
            table = self.run.read_table(self.run.train_labels, made_by="04_train")
            found["labels to train on"] = int((table["source"] != "human").sum())
        return found

    def texts(self, page: int = 0, *, n: int = TRIED) -> pd.DataFrame:
        """Five texts that are no test texts, or `n`, these first; another page, another five."""
        chunks = self.run.read_table(self.run.chunks, made_by="01_ingest")
        drawn: list[str] = []
        for file, made_by in ((self.run.test_set, "03_test_labels"), (self.run.pilot, "02_rules")):
            drawn += self.run.read_json(file, made_by=made_by)["chunk_ids"] if file.exists() else []
        order = random_order(chunks["chunk_id"].tolist(), self.config.system.seed)[::-1]
        free = [chunk_id for chunk_id in order if chunk_id not in set(drawn)]
        pages = max(1, len(free) // TRIED)
        start = page % pages * TRIED
        return chunks.set_index("chunk_id").loc[[*free[start:], *free[:start]][:n]].reset_index()

    def cost(self, text: str, page: int = 0) -> tuple[int, float | None]:
        """Calls and, about, dollars that `try_on` would take; None without a price in the config.

        A model that has labelled nothing yet is taken to need a token for every four characters, and ANSWER_TOKENS.
        """
        texts = self.texts(page)
        rows = {size: plan_labels(texts, size, text, self.config, self.run, self.store) for size in self.sizes}
        characters = len(str(label_prompt(self.config, text).render())) + texts["text"].str.len().mean()
        dollars: float | None = 0.0
        for size, row in rows.items():
            sent, received = self.config.price_of(size)
            if dollars is None or sent is None or received is None:
                dollars = None
            elif row["dollars"] is not None:
                dollars += row["dollars"]
            else:
                dollars += row["calls"] * (characters / CHARACTERS_PER_TOKEN * sent + ANSWER_TOKENS * received) / 1e6
        return sum(row["calls"] for row in rows.values()), dollars

    def try_on(self, text: str, page: int = 0) -> pd.DataFrame:
        """The labels of five texts by the edited rules; a local model labels some more, to compare its scores.

        Returns:
            text, before (the small LLM's label by the rules as they are, where it is known), and a column for each
            LLM; a label that failed is its reason.
        """
        _check(text)
        texts = self.texts(page)
        table = texts[["text"]].assign(before=self._known(texts))
        for size in self.sizes:
            local = self.config.api_of(size).mode == "local"
            labels = label_chunks(
                self.texts(page, n=BESIDE) if local else texts,
                size=size,
                rules=text.strip(),
                config=self.config,
                store=self.store,
            ).head(len(texts))
            table[size] = labels["label"].where(labels["label"].notna(), labels["reason"])
        return table

    def keep(self, text: str) -> None:
        """Puts the edit in place of the rules.

        Raises:
            ConfigError: there is no text, or the file holds other rules than those that were edited.
        """
        _check(text)
        with one_step(self.run.root):
            if read_rules(self.run) != self.kept:
                raise ConfigError("The rules in the file have changed meanwhile. Run this cell again to edit those.")
            edit_rules(self.run, text.strip())
        self.kept = text.strip()

    def _known(self, texts: pd.DataFrame) -> "pd.Series[Any]":
        """The small LLM's labels by the rules as they are, of those texts that it was asked about.

        A local model's scores are compared over all texts that it was asked about: five alone would get other labels.
        """
        local = self.config.api_of("small").mode == "local"
        chunks = self.run.read_table(self.run.chunks, made_by="01_ingest") if local else texts
        missing = unanswered(chunks, size="small", rules=self.kept, config=self.config, store=self.store)
        answered = chunks.drop(index=missing.index)
        if answered.empty:
            return pd.Series([None] * len(texts), dtype=object)
        labels = label_chunks(answered, size="small", rules=self.kept, config=self.config, store=self.store)
        return texts["chunk_id"].map(dict(zip(labels["chunk_id"], labels["label"], strict=True)))


def _check(text: str) -> None:
    if not text.strip():
        raise ConfigError("There are no rules. Write some, or discard the edit.")
