"""Rules that learn: where the small LLM reads the rules otherwise than the large one, the large one may edit them.

Both label a pilot of random texts. What they differ on in one half goes back to the large LLM, which proposes edited
rules; these are kept only if the two then agree on more texts of the other half, both labelling it by the new rules.
Agreement is not accuracy, as rules that know one class only are agreed upon too: so an edit that gives a class up is
not kept, and it is said how many of the large LLM's labels moved. A pilot text never enters the test set
(test_set.py). Rules of a person are left alone.
"""

import contextlib
import difflib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd

from nbhelpers.config import Config
from nbhelpers.errors import BudgetError, ChatError, ChatRefusedError, EndpointError
from nbhelpers.evaluation import accuracy_interval
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks
from nbhelpers.prompt_files import REFINE_PROMPT, Message, check_label_prompt, load_prompt, render
from nbhelpers.rules import Rules, ask_large, replace_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.test_set import open_pilot

MOST_SHOWN = 40  # disagreements in one question
MAX_CHARS = 2000  # of each text in it
MAX_REASON_CHARS = 300
COLUMNS = ["text", "large", "small", "why"]


class Agreed(NamedTuple):
    """On how many of the held-out texts both LLMs chose the same class; a text without a label counts as differing."""

    same: int
    n: int

    def __str__(self) -> str:
        low, high = accuracy_interval(self.same, self.n)
        return f"{self.same} of {self.n} ({self.same / self.n:.2f}, 95 % interval {low:.2f} to {high:.2f})"


@dataclass(frozen=True, eq=False)
class Refinement:
    """What came of it: the `rules` in use now, and `why`.

    `before` and `after` compare the small LLM's labels with the large one's on the same held-out texts, both given by
    the old rules, then both by the proposed ones; by these the large LLM gives `moved` of them another class.
    `disagreements` has a row (text, large, small, why: the large LLM's reason) for each text of the other half on which
    they differ. `diff` is a unified diff.
    """

    rules: str
    why: str = ""
    kept: bool = False
    texts: int = 0
    before: Agreed | None = None
    after: Agreed | None = None
    moved: int = 0
    disagreements: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    diff: str = ""
    notices: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        if self.before is not None:
            lines.append(f"To learn from: {self.texts} texts, {len(self.disagreements)} of them with two labels.")
            lines.append(f"By the old rules both models choose the same class for {self.before} held-out texts.")
        if self.after is not None:
            lines.append(f"By the proposed rules, for {self.after}; the large model gives {self.moved} another class.")
        return "\n".join([*lines, self.why, *self.notices])

    def shown(self) -> list[Message]:
        """The proposed edit, for widgets.show_messages."""
        role = f"changes to the rules ({'kept' if self.kept else 'not kept'})" if self.diff else "no changes proposed"
        return [{"role": role, "content": self.diff or self.why}]


def refine_rules(config: Config, run: RunFolder, store: LabelStore, made: Rules) -> Refinement:
    """Lets the large LLM edit its rules once, if that makes the two LLMs agree more often; off with `rules.refine: 0`.

    `made` comes from `make_rules`; the rules' file is written where a proposal is kept. All answers are taken from the
    store where it has them, so the same again costs nothing and ends the same.

    Raises:
        NotEnoughChunksError: the pilot would leave too few texts for the test set.
        ChatRefusedError, EndpointError: nothing more can be asked; answers so far are kept.
    """
    reason = _why_not(config, made)
    if reason is not None:
        return Refinement(made.text, reason)
    task = config.classification
    template, notices = refine_prompt(config)
    pilot = open_pilot(config, run)
    learn, held_out = pilot.iloc[::2], pilot.iloc[1::2]
    held_out = held_out[~held_out["near_group"].isin(set(learn["near_group"]))]
    done = Refinement(made.text, texts=len(learn), notices=notices)
    if held_out.empty:
        return replace(done, why="Not refined: all pilot texts are near-duplicates. Raise rules.refine.")
    try:
        first, old = (_label_both(half, made.text, config, store) for half in (learn, held_out))
        differ = first[(first["large"] != first["small"]) & first[["large", "small"]].notna().all(axis=1)]
        before = _agreed(old)
        done = replace(done, before=before, disagreements=differ[COLUMNS].reset_index(drop=True))
        if differ.empty or before.same == before.n:
            where = "texts to learn from" if differ.empty else "held-out texts"
            return replace(done, why=f"The rules stay: the models differ on none of the {where}. Nothing was asked.")
        asked = render(template, classes=task.classes, desc=task.desc, rules=made.text, text=_listed(differ))
        proposed = _rules_in(ask_large(config, asked, store))
        if proposed is None or proposed == made.text:
            said = "no rules between <rules> and </rules>" if proposed is None else "no change"
            return replace(done, why=f"The rules stay: {config.api.large_model} proposed {said}.")
        texts = (made.text.splitlines(), proposed.splitlines())
        diff = "\n".join(difflib.unified_diff(*texts, "rules before", "rules proposed", lineterm=""))
        done = replace(done, diff=diff)
        new = _label_both(held_out, proposed, config, store)
    except (ChatRefusedError, EndpointError):
        raise
    except (BudgetError, ChatError) as error:
        return replace(done, why=f"The rules stay: {error}")
    after, moved = _agreed(new), (old["large"] != new["large"]) & old["large"].notna() & new["large"].notna()
    done = replace(done, after=after, moved=int(moved.sum()))
    if after.same <= before.same:
        return replace(done, why="Not kept: the two models do not agree more often by the proposed rules.")
    lost = _given_up(old, new)
    if lost:
        return replace(
            done, why=f"Not kept: the models agree more often, but on no held-out text of {', '.join(lost)}."
        )
    refined = {"from": made.text, "held_out": after.n, "agreed_before": before.same, "agreed_after": after.same}
    if not replace_rules(run, proposed, refined=refined):
        return replace(done, why="Not kept: the rules were edited by hand meanwhile.")
    why = "Kept: the two models agree more often by the new rules."
    return replace(done, rules=proposed, kept=True, why=why)


def refine_prompt(config: Config) -> tuple[list[Message], list[str]]:
    """The question for edited rules, not filled in, and notices about prompt files that were not found."""
    folders = [config.path.prompts, config.path.default_prompts]
    template, notices = load_prompt(REFINE_PROMPT, folders, completion_mode=config.system.completion_mode)
    check_label_prompt(template, name=REFINE_PROMPT)
    return template, notices


def why_off(config: Config) -> str | None:
    """Why this config lets no rules be refined, whatever they are; None where it does."""
    large = config.api_of("large")
    if config.rules.refine == 0:
        return "Off: rules.refine is 0, so the rules stay as they were written and nothing was asked."
    if large.mode == "local":
        return "Not refined: api.large_mode is local, and a local model cannot be relied on to edit rules."
    if config.same_llm:
        return f"Not refined: {large.model} is both the large and the small model, and cannot differ from itself."
    return None


def _why_not(config: Config, made: Rules) -> str | None:
    if config.rules.refine > 0 and made.written_by != "model":
        return f"Not refined: these rules are by the {made.written_by}, and only a model's rules are changed."
    return why_off(config)


def _label_both(chunks: pd.DataFrame, rules: str, config: Config, store: LabelStore) -> pd.DataFrame:
    """text, large, small, why: both labels of each text by these rules, in order."""
    found: dict[str, Any] = {}
    for size in ("large", "small"):
        labels = label_chunks(chunks, size=size, rules=rules, config=config, store=store)
        if (labels["reason"] == NOT_ASKED).any():
            raise BudgetError("cost.budget_usd does not suffice for the pilot. Raise it to have the rules refined.")
        found[size] = labels
    large, small = found["large"], found["small"]
    why = [_reason(reply) if isinstance(reply, str) else "" for reply in large["reply"]]
    return pd.DataFrame({"text": large["text"], "large": large["label"], "small": small["label"], "why": why})


def _agreed(table: pd.DataFrame) -> Agreed:
    return Agreed(int((table["large"].notna() & (table["large"] == table["small"])).sum()), len(table))


def _given_up(old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Classes that the large LLM used, or both agreed on, by the old rules, and that have no such text by the new."""
    agreed = [table[table["large"] == table["small"]] for table in (old, new)]
    gone, torn = (set(before["large"].dropna()) - set(after["large"]) for before, after in ((old, new), agreed))
    return sorted(gone | torn)


def _listed(differ: pd.DataFrame) -> str:
    """The disagreements as the large LLM is shown them."""
    shown = differ.head(MOST_SHOWN)[COLUMNS].itertuples(index=False, name=None)
    return "\n\n".join(
        f"<text>\n{text[:MAX_CHARS]}\n</text>\nYour label: {large}{f' ({why})' if why else ''}\nThe reader's: {small}"
        for text, large, small, why in shown
    )


def _reason(reply: str) -> str:
    """What a reply says besides the label."""
    said = reply.rpartition("</think>")[2].strip()
    with contextlib.suppress(ValueError):
        values = json.loads(said)
        said = str(values.get("reason", "")) if isinstance(values, dict) else ""
    lines = [line for line in said.splitlines() if not line.strip(" *").lower().startswith("final label")]
    return " ".join(" ".join(lines).split())[:MAX_REASON_CHARS]


def _rules_in(reply: str) -> str | None:
    """The rules of a proposal; None unless there is exactly one pair of tags with something in it."""
    if (reply.count("<rules>"), reply.count("</rules>")) != (1, 1):
        return None
    found = re.search(r"<rules>(.*)</rules>", reply, re.DOTALL)
    return (found[1].strip() or None) if found is not None else None
