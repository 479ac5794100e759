"""The most doubtful labels of the small LLM, asked of the large one: better labels for the price of a few.

Doubt comes from the label's confidence and a cross-validated classifier together (see doubt); a text that got no label
is most in doubt. At each iteration so many texts are sent on that the large LLM was asked about `labeling.cascade` of
all texts so far that no person has labelled. Which texts were sent, and when, is kept in the label store, so that an
iteration that is repeated has the same labels; what the large LLM could not label, it is not asked about again.
"""

import json
from collections.abc import Set

import numpy as np
import pandas as pd

from nbhelpers.agreement import read_calibration
from nbhelpers.config import Config
from nbhelpers.doubt import Floats, doubt, examine, send_to_large, soft_targets
from nbhelpers.features import Features, features
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import NOT_ASKED, label_chunks
from nbhelpers.run_folder import RunFolder

DECIDED = "sent on"  # the finding in the label store: the share, and at how many labels it was decided
TAKEN_OVER = ["label", "confidence", "reason", "source", "reply"]


def send_on(
    labels: pd.DataFrame, *, people: Set[str], rules: str, config: Config, run: RunFolder, store: LabelStore
) -> pd.DataFrame:
    """Replaces the most doubtful labels by the large LLM's.

    Args:
        labels: all labels so far by the small LLM, as `label_chunks` gives them.
        people: texts that a person labelled: they are not sent on, and do not count.
        rules, config, run, store: as for `label_chunks`; the features of the texts are kept in the run folder.
    Returns:
        The same rows; `source` is "large" where the large LLM was asked and answered.
    Raises:
        ChatRefusedError, EndpointError: the large LLM cannot be asked.
    """
    share, so_far = config.cascade_share, len(labels)
    if share == 0:
        return labels
    sent, decided = sent_before(config, store), _decided(config, store)
    if so_far not in decided:
        before = {chunk_id for chunk_id, at in sent.items() if at < so_far}
        earlier = _taken_over(labels, before, rules, config, store)
        earlier = earlier[(earlier["reason"] != NOT_ASKED) & ~earlier["chunk_id"].isin(people)]
        named, doubts = earlier["label"].notna().to_numpy(), np.ones(len(earlier))
        evidence = _evidence(earlier[named], config, run)
        doubts[named] = doubt(*evidence, classes=config.classification.classes, seed=config.system.seed)
        chosen = send_to_large(doubts, earlier["chunk_id"].isin(before).to_numpy(), share)
        if not decided:
            store.forget_sent_on()  # what was chosen for another share
        store.add_sent_on(earlier["chunk_id"].iloc[chosen].tolist(), so_far)
        sizes = [size for size in decided if size < so_far]
        store.note_finding(DECIDED, json.dumps({"share": share, "sizes": [*sizes, so_far]}))
        sent = store.sent_on()
    return _taken_over(labels, {c for c, at in sent.items() if at <= so_far} - people, rules, config, store)


def sent_before(config: Config, store: LabelStore) -> dict[str, int]:
    """chunk_id -> how many labels there were when the text was sent on; none where another share counted then.

    Then texts are chosen anew; what was answered for the other share is in the store, and not paid for again.
    """
    return store.sent_on() if _decided(config, store) else {}


def tell_unsettled(labels: pd.DataFrame, *, config: Config, store: LabelStore) -> list[str]:
    """A sentence on doubtful labels that the large LLM was to give and did not; none where it gave all."""
    sent = {chunk_id for chunk_id, at in sent_before(config, store).items() if at <= len(labels)}
    left = labels["chunk_id"].isin(sent) & ~labels["source"].isin(["large", "human"])
    if not left.any():
        return []
    return [
        f"{left.sum()} doubtful labels are the small LLM's still: the large one gave none, as cost.budget_usd did not "
        "suffice, or its calls failed or named no class."
    ]


def _decided(config: Config, store: LabelStore) -> list[int]:
    """At how many labels it was decided, for this share, which texts are sent on."""
    kept = json.loads(store.finding(DECIDED) or "{}")
    return list(kept["sizes"]) if kept.get("share") == config.cascade_share else []


def examine_labels(labels: pd.DataFrame, *, config: Config, run: RunFolder) -> pd.DataFrame:
    """Every label beside what a classifier says that never saw it, and how likely it is wrong; none is dropped.

    Args:
        labels: with text, label, confidence and source; failed ones are left out.
        config, run: the classes and the encoder; the features of the texts are kept in the run folder.
    Returns:
        The rows with a label, with predicted, probability, suggested and doubt as `examine` gives them; a person's
        label has no doubt.
    """
    usable = labels[labels["label"].notna()].reset_index(drop=True)
    certain = (usable["source"] == "human").tolist()
    classes, seed = config.classification.classes, config.system.seed
    found = examine(*_evidence(usable, config, run), classes=classes, seed=seed, certain=certain)
    return pd.concat([usable, found], axis=1)


def believed_labels(labels: pd.DataFrame, *, config: Config, run: RunFolder) -> Floats:
    """What to train on in place of bare labels: each as far as it is believed; a person's is believed wholly.

    Args:
        labels: with text, label (none missing), confidence and source.
        config, run: as for `send_on`.
    Returns:
        (labels, classes), in the config's order; a row sums to 1.
    """
    certain = (labels["source"] == "human").tolist()
    classes, seed = config.classification.classes, config.system.seed
    return soft_targets(*_evidence(labels, config, run), classes=classes, seed=seed, certain=certain)


def _taken_over(labels: pd.DataFrame, sent: set[str], rules: str, config: Config, store: LabelStore) -> pd.DataFrame:
    chosen = labels["chunk_id"].isin(sent)
    if not chosen.any():
        return labels
    large = label_chunks(labels[chosen], size="large", rules=rules, config=config, store=store, again=False)
    answered = large[large["label"].notna() & (large["reason"] != NOT_ASKED)].set_index("chunk_id")
    made = labels.copy()
    rows = made["chunk_id"].isin(answered.index)
    made.loc[rows, TAKEN_OVER] = answered.loc[made.loc[rows, "chunk_id"], TAKEN_OVER].to_numpy()
    return made.astype({"confidence": float})


def _evidence(labels: pd.DataFrame, config: Config, run: RunFolder) -> tuple[Features, list[str], list[float]]:
    """Features, labels and confidences, the small LLM's calibrated; the large one's count only beside these."""
    confidence, small = labels["confidence"].astype(float), labels["source"] == "small"
    confidence[small] = read_calibration(run)(confidence[small].tolist())
    if confidence[small].isna().all():
        confidence[:] = float("nan")
    return (
        features(labels["text"].tolist(), base_model=config.training.model_path, run=run),
        labels["label"].tolist(),
        confidence.tolist(),
    )
