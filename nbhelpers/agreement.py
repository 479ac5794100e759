"""The two LLMs on the same texts: how often they agree, and what the small one's confidence is worth.

The texts are the first of the test set, whose order is random, so that both figures hold for all texts. Texts that a
cascade sent on have two labels as well, and are left out: they were chosen because they were doubtful, partly by a
classifier that contradicts their label, so at the same confidence they are wrong more often than others. No test text
or test label reaches the train set by this; two numbers, of the calibration, do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nbhelpers.audit import Agreement, compare_raters
from nbhelpers.calibration import LEAST_TEXTS, Calibration, cross_calibrated, fit_calibration
from nbhelpers.config import Config, Size
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, label_prompt
from nbhelpers.llms import samples_of, stored_under
from nbhelpers.reliability import calibration_error, reliability_table
from nbhelpers.run_folder import RunFolder, write_json

MADE_BY = "03_test_labels"
LOG_PROBABILITIES = "log-probabilities"
LOCAL_SCORES = "the local model's scores"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both labels of the same texts.

    `texts` has chunk_id, large, small and confidence (the small LLM's, as it was given). `source` says what that comes
    from, "" where there is none. Without a text that both labelled, `agreement` is None and `why_not` says why.
    `ceiling` is off where the small LLM labels the test set too: a classifier is then measured by its own teacher.
    """

    texts: pd.DataFrame
    source: str = ""
    agreement: Agreement | None = None
    why_not: str = ""
    ceiling: bool = True

    @property
    def calibration(self) -> Calibration:
        """What makes of the small LLM's confidence the probability that the large one would say the same."""
        return fit_calibration(*self._judged())

    def reliability(self) -> pd.DataFrame:
        """How often the large LLM says the same, in bins of the small one's confidence (see reliability)."""
        return reliability_table(*self._judged())

    def __str__(self) -> str:
        if self.agreement is None:
            return self.why_not
        lines = [str(self.agreement)]
        if self.ceiling:
            lines.append(
                f"A classifier that learned every habit of the small LLM would be shown at about "
                f"{self.agreement.ceiling:.1%}."
            )
        return "\n".join([*lines, self._on_confidence()])

    def to_dict(self) -> dict[str, Any]:
        """The figures for report.json; empty where there are none."""
        if self.agreement is None:
            return {}
        found = self.agreement
        kappa = None if math.isnan(found.kappa) else found.kappa
        figures = {name: getattr(found, name) for name in ("n", "left_out", "share", "low", "high", "ceiling")}
        calibration, (raw, calibrated) = self.calibration, self._errors()
        confidence = {
            "source": self.source or None,
            "texts": len(self._judged()[0]),
            "error": raw,
            "error_calibrated": calibrated,
            "slope": calibration.slope,
            "shift": calibration.shift,
            "calibrated_on": calibration.texts,
        }
        return {
            **figures,
            "kappa": kappa,
            "mixed_up": [list(pair) for pair in found.mixed_up],
            "confidence": confidence,
        }

    def _judged(self) -> tuple[list[float], list[bool]]:
        """Confidence, and whether the large LLM says the same, of the texts that have all three."""
        known = self.texts.dropna(subset=["large", "small", "confidence"])
        return known["confidence"].astype(float).tolist(), (known["large"] == known["small"]).tolist()

    def _errors(self) -> tuple[float | None, float | None]:
        """The calibration error as given, and calibrated by other texts; None where there is none."""
        confidence, right = self._judged()
        if not confidence:
            return None, None
        raw = calibration_error(reliability_table(confidence, right))
        if not self.calibration.texts:
            return raw, None
        return raw, calibration_error(
            reliability_table(confidence, right, said=cross_calibrated(confidence, right).tolist())
        )

    def _on_confidence(self) -> str:
        if not self.source:
            return (
                "The small LLM's confidence: none. Its endpoint gives no log-probabilities; labeling.label_samples: 3 "
                "would ask it three times, and take the agreement of its answers."
            )
        raw, calibrated = self._errors()
        if raw is None:
            return f"The small LLM's confidence: {self.source}. No text has it and both labels."
        n = len(self._judged()[0])
        said = f"The small LLM's confidence: {self.source}. On {n} texts it is off by {raw:.1%} on average"
        if calibrated is None:
            return f"{said}; it is used as it is, since to calibrate it takes {LEAST_TEXTS} texts (labeling.compare)."
        return (
            f"{said}; calibrated, each text by the others, by {calibrated:.1%}. From here on the calibrated one counts."
        )


def compare_llms(labels: pd.DataFrame, *, rules: str, config: Config, run: RunFolder, store: LabelStore) -> Comparison:
    """Has the other LLM label the first `labeling.compare` test texts too; what came of it is kept in the run folder.

    Args:
        labels: of the test set, as `label_chunks` gives them; the order of the draw is random.
        rules, config, store: as for `label_chunks`.
    """
    run.agreement.unlink(missing_ok=True)
    first = config.training.test_labeler
    other: Size = "small" if first == "large" else "large"
    why_not = _why_not(config)
    if why_not:
        return Comparison(_table([]), why_not=why_not)
    both = labels.head(config.labeling.compare)
    second = label_chunks(both, size=other, rules=rules, config=config, store=store)
    by_size = {first: both.reset_index(drop=True), other: second}
    texts = by_size["small"][["chunk_id", "confidence"]].assign(
        **{size: table["label"] for size, table in by_size.items()}
    )
    source = _source(by_size["small"], rules=rules, config=config, store=store)
    made = _comparison(texts, source, config)
    rows = texts.astype(object).where(texts.notna(), None).to_dict("records")
    write_json(run.agreement, {**made.to_dict(), "source": source, "texts": rows})
    return made


def read_comparison(run: RunFolder, *, config: Config) -> Comparison:
    """What `compare_llms` found, without asking anybody."""
    why_not = _why_not(config)
    if not why_not and not run.agreement.exists():
        why_not = f"The two LLMs were not compared. Run {MADE_BY} first."
    if why_not:
        return Comparison(_table([]), why_not=why_not)
    kept = run.read_json(run.agreement, made_by=MADE_BY)
    return _comparison(_table(kept.get("texts", [])), kept.get("source", ""), config)


def read_calibration(run: RunFolder) -> Calibration:
    """What makes the small LLM's confidence mean what it says; without a comparison, what leaves it as it is."""
    kept = run.read_json(run.agreement, made_by=MADE_BY).get("confidence") if run.agreement.exists() else None
    return Calibration() if kept is None else Calibration(kept["slope"], kept["shift"], kept["calibrated_on"])


def _comparison(texts: pd.DataFrame, source: str, config: Config) -> Comparison:
    if texts.dropna(subset=["large", "small"]).empty:
        return Comparison(texts, source, why_not="No text has a label by both LLMs.")
    agreement = compare_raters(texts["large"].tolist(), texts["small"].tolist(), classes=config.classification.classes)
    return Comparison(texts, source, agreement, ceiling=config.training.test_labeler == "large")


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["chunk_id", "large", "small", "confidence"])


def _why_not(config: Config) -> str:
    if config.same_llm:
        return "Both LLMs are the same model, which would only agree with itself."
    if config.labeling.compare == 0:
        return "labeling.compare is 0: nobody knows how far the two LLMs agree."
    return ""


def _source(small: pd.DataFrame, *, rules: str, config: Config, store: LabelStore) -> str:
    """What the small LLM's confidence comes from; where it differs from text to text, for most of them."""
    if config.api_of("small").mode == "local":
        return LOCAL_SCORES
    prompt = label_prompt(config, rules).render()
    answers = store.get_answers(stored_under(config, "small", text=text, prompt=prompt) for text in small["text"])
    told = sum(answer.confidence is not None for answer in answers.values())
    known = int(small["confidence"].notna().sum())
    if known == 0:
        return ""
    return LOG_PROBABILITIES if 2 * told >= known else f"agreement of {samples_of(config, 'small')} answers"
