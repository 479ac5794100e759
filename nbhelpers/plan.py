"""What a run has yet to ask the LLMs, and what that costs, before it is paid for.

A row for each stage and iteration, up to `max_iters`; a run that reaches its target stops earlier. Answers that are in
the label store cost nothing more. How many tokens a question and its answer take is measured on answers of the same
model; where there are none, at most five questions are asked first: for the rules, and for the labels of a few texts
that the run asks about anyway. Their answers are kept and used. Only the label store is written. Training is not
planned.
"""

import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers.cascade import sent_before
from nbhelpers.config import Config, Size
from nbhelpers.config_file import find_file, load_config
from nbhelpers.doubt import large_quota
from nbhelpers.errors import NbhelpersError
from nbhelpers.ingest import check_output, ingest, input_files
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import check_labelled, known_at_once, label_chunks, label_prompt, unanswered
from nbhelpers.llms import samples_of, stored_under, usage
from nbhelpers.lock import one_step
from nbhelpers.money import dollars
from nbhelpers.prompt_files import Message, render
from nbhelpers.refine import why_off
from nbhelpers.rules import make_rules, read_rules, rules_prompt
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import RANDOM_SHARE, choose
from nbhelpers.stages import STAGES, what_changed
from nbhelpers.test_set import open_pilot, open_test_set
from nbhelpers.throttle import round_trips

PROBES = 4  # texts that are labelled first, by both LLMs in equal parts, unless they have labelled as many
LAST = 1.25  # times the mean: what the last answer of many at once takes, at the least
ENOUGH_CALLS = 20  # from which on the share of failed ones says something
FORMS = {
    "calls": "{:,.0f}",
    "prompt_tokens": "{:,.0f}",
    "completion_tokens": "{:,.0f}",
    "dollars": "{:,.4f}",
    "llm_minutes": "{:,.1f}",
}


@dataclass(frozen=True, eq=False)
class Plan:
    """What is still to be asked.

    `table` has a row for each stage, iteration and LLM, and the total last. Columns: stage, iteration (in 04 only),
    llm, calls, prompt_tokens, completion_tokens, dollars, llm_minutes. What is not known is missing there, never 0.
    `paid` is `llms.usage` up to now; `error` why something could not be found out.
    """

    table: pd.DataFrame
    paid: dict[str, Any]
    budget_usd: float | None
    error: NbhelpersError | None = None

    def __str__(self) -> str:
        def shown(value: Any, form: str) -> str:
            return "unknown" if pd.isna(value) else form.format(value)

        names = [
            stage if pd.isna(i) else f"{stage}, iteration {i}"
            for stage, i in zip(self.table["stage"], self.table["iteration"], strict=True)
        ]
        rows = pd.DataFrame(
            {"LLM": self.table["llm"].tolist()}, index=[name.ljust(max(map(len, names))) for name in names]
        )
        for name, form in FORMS.items():
            rows[name.replace("_", " ").replace("llm", "LLM")] = [shown(value, form) for value in self.table[name]]
        paid, planned = self.paid["cost_usd"], self.table["dollars"].iloc[-1]
        lines = [f"Paid so far: {self.paid['calls']:,} calls, {dollars(paid)}."]
        if self.budget_usd is not None:
            lost = self.paid["written_off_usd"]
            spent = (paid or 0.0) + lost
            cut = f" ({dollars(lost)} of it for calls cut off by a kill, at the most they can cost)" if lost else ""
            enough = "" if pd.isna(planned) or spent + planned <= self.budget_usd else " That does not suffice."
            still = "unknown" if pd.isna(planned) else dollars(planned)
            lines.append(
                f"cost.budget_usd: {dollars(self.budget_usd)}, spent {dollars(spent)}{cut}, planned {still}.{enough}"
            )
            lines.append(
                "A call is sent only while the most that it can cost is left: the last of a budget stays unspent."
            )
        if self.error is not None:
            lines.append(f"Not all of it could be found out: {self.error}")
        return "\n".join([rows.to_string(), "", *lines])


def show_plan(config_path: str | Path, *, overrides: Sequence[str] = (), say: Callable[[str], None] = print) -> None:
    """Prints the plan of a config; reads the texts first where that is not up to date.

    Raises:
        NbhelpersError: why there is no plan, in one message; a run would stop for the same reason.
    """
    file = find_file(config_path)
    config = load_config(file, overrides=overrides)
    check_output(config)
    input_files(config)
    run = RunFolder(config.path.output_dir)
    with one_step(run.root), LabelStore(run.labels) as store:
        if what_changed(STAGES[0], config, run):
            made = ingest(config, run)
            say(f"Texts read, which costs nothing: {len(made.documents)} files, {len(made.chunks)} chunks.")
        store.write_off()  # what a run that was killed left under way
        plan = make_plan(config, run, store)
    told = replace(plan, error=None)  # which is raised below
    say(f"{file.name} -> {run.name}, what is still to be asked, at most:\n\n{told}")
    if plan.error is not None:
        raise plan.error


def make_plan(
    config: Config, run: RunFolder, store: LabelStore, *, step: str | None = None, probe: bool = True
) -> Plan:
    """Plans the LLM calls of all steps from the first one that is not up to date.

    Args:
        step: begin with this one, and ask none but its own questions; without it, with the first that is stale.
        probe: ask up to five questions where too little is known; without it that is shown as unknown.
    Returns:
        A plan in any case; why less is known than there should be (too few texts, no answer, no money) is its `error`.
    """
    left = dropwhile(lambda stage: stage.name < (step or "") or not what_changed(stage, config, run), STAGES[1:4])
    planner = _Planner(config, run, store, steps=[stage.name for stage in left], probe=probe)
    asked_now = planner.steps[:1] if step else planner.steps
    rows = pd.DataFrame(planner.rows(asked_now), columns=["stage", "iteration", "llm", *FORMS])
    rows = rows.astype({"iteration": "Int64", "calls": "Int64", **dict.fromkeys(list(FORMS)[1:], "Float64")})
    total = {"stage": "total", "llm": "", **{name: rows[name].sum(skipna=False) for name in FORMS}}
    table = pd.concat([rows, pd.DataFrame([total]).astype(rows[list(FORMS)].dtypes)], ignore_index=True)
    return Plan(table, usage(config, store), config.cost.budget_usd, planner.error)


def plan_iteration(number: int, config: Config, run: RunFolder, store: LabelStore) -> dict[str, float | None]:
    """What an iteration would ask the LLMs, one beyond `max_iters` too; nothing is asked to find out.

    Returns:
        calls, prompt_tokens, completion_tokens, dollars and llm_minutes; None for what is not known.
    """
    planner = _Planner(config, run, store, steps=["04_train"], probe=False)  # draws the pool that the run has
    training = config.training.model_copy(update={"max_iters": number})
    planner.config = config.model_copy(update={"training": training})
    rows = [row for row in planner.rows([]) if row["iteration"] == number]
    known = {name: [row[name] for row in rows] for name in FORMS}
    return {name: None if None in values else float(sum(values)) for name, values in known.items()}


def plan_labels(
    texts: pd.DataFrame, size: Size, rules: str, config: Config, run: RunFolder, store: LabelStore
) -> dict[str, Any]:
    """What labelling these texts by these rules would ask; keys as of `plan_iteration`, and nothing is asked."""
    planner = _Planner(config, run, store, steps=[], probe=False)
    planner.rules, planner.pool = rules, texts
    part = _Part("", None, size, texts)
    return planner._labels_row(part, planner._seen(size))


@dataclass(frozen=True)
class _Part:
    """Texts that a step has one LLM label: `texts` (a table), and `more` that are not chosen yet."""

    stage: str
    iteration: int | None
    size: Size
    texts: pd.DataFrame
    more: int = 0


@dataclass(frozen=True)
class _Seen:
    """What a model's labels took: prompt_tokens = slope * characters + intercept, and means for one question.

    `confident` says whether probabilities come with its labels; then one answer is enough.
    """

    slope: float
    intercept: float
    completion_tokens: float
    seconds: float
    calls: float  # until there is a label
    confident: bool


class _Planner:
    """One plan being made. `pilot`, `test` and `pool` are drawn as the run will draw them, but not written."""

    def __init__(self, config: Config, run: RunFolder, store: LabelStore, *, steps: list[str], probe: bool) -> None:
        self.config, self.run, self.store, self.steps, self.probe = config, run, store, steps, probe
        one_answer = config.labeling.model_copy(update={"label_samples": 1})
        self.once = config.model_copy(update={"labeling": one_answer})  # what every text is asked at least
        self.at_once: dict[Size, int] = {}  # calls that the endpoint takes, once it has been asked in this plan
        self.error: NbhelpersError | None = None
        self.chunks = pd.DataFrame({"chunk_id": [], "text": []}, dtype=object)
        if run.chunks.exists():
            self.chunks = run.read_table(run.chunks, made_by="01_ingest")
        self.pilot = self.test = self.pool = self.chunks.head(0)
        self.drawn = False
        self.refines = "02_rules" in steps and config.classification.rules_file is None and why_off(config) is None
        with tempfile.TemporaryDirectory() as folder:
            aside = _aside(run, Path(folder))
            if self.steps and (probe or run.chunks.exists()):
                self._draw(aside)
            self.rules, self.rules_calls = self._rules(aside)

    def rows(self, asked_now: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The plan's rows but the total; where too little is known, questions of the steps `asked_now` come first."""
        parts = list(self._parts()) if self.steps else []
        if self.probe and self.rules is not None and self.error is None:
            now = [part for part in parts if part.stage[:2] in {name[:2] for name in asked_now}]
            for size in dict.fromkeys(part.size for part in now):
                self._ask_first(next((part for part in now if part.size == size and len(self._missing(part))), None))
        if "02_rules" in self.steps:
            yield self._row("02 rules", None, "large", self.rules_calls, None, None)
        seen = {size: self._seen(size) for size in dict.fromkeys(part.size for part in parts)}
        for part in parts:
            yield self._labels_row(part, seen[part.size])

    def _rules(self, aside: RunFolder) -> tuple[str | None, int]:
        """The rules as far as they are known, and how many calls for them are left."""
        config, given = self.config, self.config.classification.rules_file
        if "02_rules" not in self.steps:
            return read_rules(self.run) if self.steps else None, 0
        asked, api = rules_prompt(config)[0], config.api_of("large")
        key = stored_under(config, "large", text="", prompt=asked, sample=int(given is not None))
        free = bool(self.store.get_answers([key])) or (given is not None and api.mode == "api")
        if (self.probe and self.error is None) or free:
            try:
                return make_rules(config, aside, self.store).text, 0
            except NbhelpersError as error:
                self.error = error
        return read_rules(self.run) if self.run.rules.exists() else None, 1

    def _draw(self, aside: RunFolder) -> None:
        try:
            if self.refines:
                self.pilot = open_pilot(self.config, aside)
            self.test, pool = open_test_set(self.config, aside)
            self.pool, self.drawn = pool.chunks, True
        except NbhelpersError as error:
            self.error = error

    def _parts(self) -> Iterator[_Part]:
        """All labels that the steps ask for, in order, whether they are in the store or not."""
        config, training = self.config, self.config.training
        other: Size = "small" if training.test_labeler == "large" else "large"
        if self.refines:
            n = config.rules.refine
            for size in ("large", "small"):
                more = n - len(self.pilot) + n // 2 + (size == "large")  # again by the new rules, which it writes
                yield _Part("02 refined rules, at most", None, size, self.pilot, more)
        if "03_test_labels" in self.steps:
            yield _Part(
                "03 test labels", None, training.test_labeler, self.test, training.test_set_size - len(self.test)
            )
            if not config.same_llm:
                compared = min(config.labeling.compare, training.test_set_size)
                both = self.test.head(compared)
                yield _Part("03 agreement of the LLMs", None, other, both, compared - len(both))
        if "04_train" in self.steps:
            yield from self._iterations()

    def _iterations(self) -> Iterator[_Part]:
        config, training, pool = self.config, self.config.training, self.pool.set_index("chunk_id", drop=False)
        chosen = [chunk_id for chunk_id in self.store.selected() if chunk_id in pool.index]
        sent, share, start = sent_before(config, self.store), config.cascade_share, 0
        for i in range(training.max_iters):
            end = training.train_set_size + i * training.train_set_increment
            end = min(end, len(pool)) if self.drawn else end
            if end == start:
                return
            all_random = training.selection == "random" or end == len(pool)
            if self.drawn and len(chosen) < end and (all_random or len(chosen) >= start):
                rest = pool[~pool.index.isin(chosen)].reset_index(drop=True)
                n, groups = end - len(chosen), pool.loc[chosen, "near_group"].tolist()
                n = n if all_random else round(RANDOM_SHARE * n)  # the other texts of the batch are not known yet
                more = choose(rest, n=n, seed=config.system.seed, strategy="random", labelled_groups=groups)
                chosen += more["chunk_id"].tolist()
            known = chosen[start:end]
            yield _Part("04 labels", i + 1, "small", pool.loc[known], end - start - len(known))
            if share > 0:
                known = [chunk_id for chunk_id, labels in sent.items() if labels == end and chunk_id in pool.index]
                quota = large_quota(end, share) - large_quota(start, share)
                yield _Part("04 doubtful labels", i + 1, "large", pool.loc[known], 0 if known else quota)
            start = end

    def _missing(self, part: _Part) -> pd.DataFrame:
        """The part's texts without an answer in the store."""
        if self.rules is None or part.texts.empty:
            return part.texts
        return unanswered(part.texts, size=part.size, rules=self.rules, config=self.once, store=self.store)

    def _questions(self, part: _Part, seen: _Seen | None) -> tuple[pd.DataFrame, int]:
        """A row for each question about the part's texts that has no answer; and how many one more text will take."""
        missing, samples = self._missing(part), samples_of(self.config, part.size)
        if samples == 1 or self.rules is None or (seen is not None and seen.confident):
            return missing, 1
        prompt, rows = label_prompt(self.config, self.rules).render(), np.arange(len(part.texts))
        further = part.texts.iloc[np.repeat(rows, samples - 1)]
        keys = [
            stored_under(self.config, part.size, text=text, prompt=prompt, sample=sample)
            for text in part.texts["text"]
            for sample in range(1, samples)
        ]
        known = self.store.get_answers(keys)
        return pd.concat([missing, further[[key not in known for key in keys]]]), samples

    def _ask_first(self, part: _Part | None) -> None:
        """Labels a few of the part's texts, short and long ones, unless the model has labelled enough."""
        if part is None:
            return
        api, missing = self.config.api_of(part.size), self._missing(part)
        n = PROBES // (1 if self.config.same_llm else 2) - int(
            (self.store.answers("label")["model"] == api.model).sum()
        )
        if n > 0:
            places = np.quantile(np.arange(len(missing)), (np.arange(n) + 0.5) / n).round().astype(int)
            few = missing.iloc[missing["text"].str.len().argsort().iloc[np.unique(places)]]
            try:
                labels = label_chunks(few, size=part.size, rules=self.rules or "", config=self.once, store=self.store)
                check_labelled(labels, config=self.config)
            except NbhelpersError as error:
                self.error = error

    def _seen(self, size: Size) -> _Seen | None:
        """What the store shows of a model; None where it has labelled none of the texts there are."""
        api, answers, failures = self.config.api_of(size), self.store.answers("label"), self.store.failures()
        lengths = dict(zip(self.chunks["chunk_id"], self.chunks["text"].str.len(), strict=True))
        answers = answers[answers["model"] == api.model]
        failed = int(((failures["model"] == api.model) & (failures["kind"] == "label")).sum())
        calls = 1 + failed / len(answers) if len(answers) + failed >= ENOUGH_CALLS and len(answers) else 1.0
        answers = answers[answers["chunk_id"].isin(lengths)]
        if answers.empty:
            return None
        if api.mode == "api":  # several forms of answer were tried at first; see labeling for which one it takes
            said = answers["reply"].astype(str).str.startswith("{")
            forms = list(zip(answers["confidence"].notna(), said, strict=True))
            taken = max(form for form, n in Counter(forms).items() if n >= 0.2 * len(forms))
            answers = answers[[form == taken for form in forms]]
        prompts = {prompt_id: _characters(self.store.prompt(prompt_id)) for prompt_id in set(answers["prompt_id"])}
        x = np.array(
            [
                prompts[prompt_id][0] + prompts[prompt_id][1] * lengths[chunk_id]
                for prompt_id, chunk_id in zip(answers["prompt_id"], answers["chunk_id"], strict=True)
            ],
            dtype=float,
        )
        y = answers["prompt_tokens"].to_numpy(float)
        slope, intercept = y.sum() / x.sum(), 0.0
        if api.mode == "api" and np.ptp(x) >= 20:
            fitted = np.polyfit(x, y, 1)
            if 0 < fitted[0] < 5 * slope:
                slope, intercept = fitted
        seconds = answers["seconds"].median() if api.mode == "local" else answers["seconds"].mean()
        confident = bool(answers["confidence"].notna().any())
        received = _mean_reply(answers, self.config.classification.classes)
        return _Seen(slope, intercept, received, seconds, calls, confident)

    def _labels_row(self, part: _Part, seen: _Seen | None) -> dict[str, Any]:
        missing, answers = self._questions(part, seen)
        more = part.more * answers
        n = len(missing) + more
        others = self.chunks if self.pool.empty else self.pool
        if n == 0 or seen is None or self.rules is None or (more and others.empty):
            return self._row(part.stage, part.iteration, part.size, n, None, None)
        fixed, times = _characters(label_prompt(self.config, self.rules).render())
        characters: float = n * fixed + times * missing["text"].str.len().sum()
        if more:
            characters += more * times * others["text"].str.len().mean()
        calls = n * seen.calls
        sent = (seen.slope * characters + seen.intercept * n) * seen.calls
        minutes = self._trips(part.size, round(calls)) * seen.seconds / 60
        return self._row(part.stage, part.iteration, part.size, calls, (sent, calls * seen.completion_tokens), minutes)

    def _trips(self, size: Size, calls: int) -> float:
        """How many answers long these calls take; the LLM's later ones go as fast as its endpoint allows."""
        if self.config.api_of(size).mode == "local":
            return calls
        most = self.config.system.concurrency_limit
        known = self.at_once.get(size, known_at_once(self.config, size, self.store))
        self.at_once[size] = known or most
        return round_trips(calls, most=most, known=known) + (LAST - 1 if calls else 0)

    def _row(
        self,
        stage: str,
        iteration: int | None,
        size: Size,
        calls: float,
        tokens: tuple[float, float] | None,
        minutes: float | None,
    ) -> dict[str, Any]:
        price = self.config.price_of(size)
        if calls == 0:
            tokens, minutes = (0.0, 0.0), 0.0
        sent, received = tokens or (None, None)
        dollars: float | None = None
        if calls == 0 or price == (0, 0):
            dollars = 0.0
        elif sent is not None and received is not None and price[0] is not None and price[1] is not None:
            dollars = (sent * price[0] + received * price[1]) / 1e6
        values = (stage, iteration, size, round(calls), sent, received, dollars, minutes)
        return dict(zip(["stage", "iteration", "llm", *FORMS], values, strict=True))


def _aside(run: RunFolder, folder: Path) -> RunFolder:
    """The run folder with copies of what drawing and writing rules would change."""
    aside = copy.copy(run)
    for name in ("rules", "pilot", "test_set"):
        path: Path = getattr(run, name)
        setattr(aside, name, folder / path.name)
        if path.exists():
            shutil.copy(path, folder / path.name)
    return aside


def _mean_reply(answers: pd.DataFrame, classes: Sequence[str]) -> float:
    """Tokens of a reply, had each class been named once more: those that a few replies name may be short or long."""
    replies = [(label, reply) for label, reply in zip(answers["label"], answers["reply"], strict=True) if reply]
    names = [*(label for label, _ in replies), *classes]
    usual = sum(map(len, names)) / len(names)
    characters = sum(reply.count(label) * (usual - len(label)) for label, reply in replies)
    return float(answers["completion_tokens"].mean() + characters / 4 / len(answers))


def _characters(prompt: Sequence[Message]) -> tuple[int, int]:
    """Characters of a label prompt without its text, and how often the text stands in it."""
    without, one = (
        sum(len(turn["content"]) for turn in render(prompt, classes=(), desc="", text=text)) for text in ("", "x")
    )
    return without, one - without
