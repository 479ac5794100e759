"""How good is a classifier with few labels, and what do noisy labels cost it?

    python tests/benchmarks/few_labels.py --data FOLDER [FOLDER ...] --model sentence-transformers/all-MiniLM-L6-v2 \
        --cache FOLDER --out few_labels.jsonl [--sizes 200 400] [--recipes plain ours] [--noise 0.08] \
        [--cascade 0 0.1] [--selection random auto]

Folders, labels and the choice of texts are those of selection.py. A size is that of the train set; the validation set,
a fifth of all labels, comes on top. Of all labels the large LLM gives the share --cascade, the most doubtful ones. The
defaults of --selection and --cascade are the package's; LLMs' confidences are taken as they are. Accuracy is against
the human labels of the test split. Calibration is against fresh labels that came about as those of the validation set,
and against the human labels beside it. Finished rows are appended to --out, and not computed again.

Recipes: `ours` is what the package does; `original` Augmentoolkit's fine-tuning (original_style.py); `frozen` a
logistic regression on frozen features; `setfit` one on features that pairs of texts have trained (setfit_style.py);
`plain` fine-tuning on the bare labels with the cross-entropy alone; `soft`, `contrast` and `aligned` add one of the
three things that ours adds to its training. Only ours is calibrated, and corrected for the shares of the pool. The
seconds are of the CPU, all threads together; those of ours do not count what is made once for all iterations of a run:
the alignment, whose seconds by the clock stand in a table of their own, and the frozen features.

The training settings are chosen on five of the sets (settings.py); the last column of a table, `others`, is the mean of
the rest. The list that follows saw clinc_domains and sms_spam, too, which are among these.

Tried on 200 labels, in points of accuracy on the mean of so many fits (two to six of trec6, snips, scicite,
clinc_domains, ag_news, sms_spam and subj, one to three seeds each; half a point may be chance). Kept, beside ours
without it:
- the alignment: +0.5 over 11; with it, selection gains on trec6 and clinc_domains, too, where it had lost;
  in DistilBERT's shape, whose head cuts off what is negative, with MiniLM's weights: +0.4 over 6;
- no dropout: +0.4 over 8, in two thirds of the time;
- the contrastive loss: +1.3 over 6;
- a class with few labels doubted less, on 16 labels: +6.9 over 6 (+0.6 beside bare labels, which 40 teach less);
- a tenth of the labels given by the large LLM (`--cascade 0.1`), with chosen texts: +1.1 over 33 (400 labels: +0.5 over
  32), and a calibration error against the truth of 0.036 for 0.078; with random texts, 5, 10 and 20 % of labels wrong
  cost 0.2, 0.4 and 1.5 points over 20, without it 0.5, 0.8 and 2.7, plain fine-tuning 1.0, 2.1 and 7.1.
Left out, beside ours:
- alignment of the first token under the pooling layer as it was: -0.5 over 11; through a new last layer: -0.3 over 7;
  with twice the steps: -0.1 over 6;
- the last layer begun as a logistic regression (LP-FT): -0.5 over 7;
- twice the learning rate: -0.7 over 6; half of it: -0.3 over 6; twice the steps: +0.1 over 6, for twice the
  time; 250 steps in place of 150 on 400 labels: 0.0 over 7;
- twice the weight of the contrastive loss: +0.2 over 10;
- a first classifier's probabilities of 600 unlabelled texts, learned beside the labels: 0.0 over 26 (400 labels: -0.2
  over 26; 16 labels: +1.0 over 5; a fifth of the labels wrong: -0.3 over 10), for half as much time again. Texts that
  were read so came out about a point worse than others. What it gave was a calibration error of 0.047 for 0.070 (400:
  0.049 for 0.055); a temperature that is pulled towards 1.4 in place of 1 gives 0.053 (400: 0.046), on other seeds;
- early-learning regularization (Liu et al. 2020), so that wrong labels are not learned by heart: +0.3 over 17 with
  random texts, 0.0 over 24 with chosen ones; and of texts that no word tells apart it calls all by the commoner class;
- the mean of the weights of two classifiers whose texts came in another order: 0.0 over 6, for twice the time;
- labels believed, beside the logistic regression, by a fine-tuned classifier that learned on the other half of them
  (two of 45 steps): belief in wrong classes falls by a fifth (a tenth of the labels wrong: from 6.9 to 5.5 %, mean of 4
  sets), and still accuracy changes with random texts by 0.0, +0.3, +0.2 and +0.5 (none, 5, 10 and 20 % wrong) over 13,
  with chosen ones by +0.1 over 12 (400 labels: -0.3; 20 and 35 % wrong: -0.5 and -0.7 over 5), for 1.7 times the time;
  in place of the regression, or only where it doubts a label by over a half: no more; with it, a class may be doubted
  by up to 0.4: -0.3 over 9;
- a contrastive loss in which each pair counts as far as both labels are believed, a fifth wrong: -1.4 over 5;
- 90 steps in place of 150: +0.1 over 10 with random texts, in two thirds of the time;
- texts chosen by the fine-tuned classifier's margins, not the probe's: +4.8 on trec6 and -2.9 on ag_news, one seed,
  for a training and a reading of the pool a batch.
Left out before there was an alignment:
- a contrastive phase before fine-tuning, in place of the loss beside it: -0.4 over 3;
- learning the table of words, too: -0.1 over 4, for a third more time;
- another classifier's predictions as labels: +0.4 over 5; with two linear models beside it, on features and on TF-IDF:
  +0.6 over 6; both for twice the time;
- averaging the weights of the last half, or label smoothing of 0.1, on plain fine-tuning: +0.3 over 2 each.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import setfit_style
from selection import BATCH, ORIGINAL, Case, add_row, arguments, made_with, report_labels_to_reach
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from nbhelpers import classifier
from nbhelpers.alignment import how_made
from nbhelpers.calibration import fit_temperature
from nbhelpers.class_shares import estimate_shares, log_correction
from nbhelpers.doubt import soft_targets
from nbhelpers.models import find_model
from nbhelpers.reliability import calibration_error, reliability_table
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import RANDOM, random_part
from nbhelpers.training import TrainingSettings, fit

RECIPES = (ORIGINAL, "frozen", "setfit", "plain", "soft", "contrast", "aligned", "ours")
CHOSEN_ON = ["trec6", "snips", "scicite", "ag_news", "subj"]  # the training settings; see settings.py
KEYS = ["data", "seed", "recipe", "size", "selection", "noise", "cascade", "rare", "made_with"]


def read_rows(path: Path, keys: list[str]) -> pd.DataFrame:
    """The finished rows; those from before there was a cascade had none."""
    rows = pd.read_json(path, lines=True) if path.exists() else pd.DataFrame(columns=keys)
    return rows.assign(cascade=rows["cascade"].fillna(0.0) if "cascade" in rows else 0.0)


def measure(case: Case, chosen: list[int], recipe: str, settings: TrainingSettings) -> dict[str, Any]:
    """Figures on the test split of a classifier that is trained on the chosen texts; the seed is the case's."""
    known, is_aligned = case.train(chosen), recipe in ("aligned", "ours")
    base = case.aligned if is_aligned else find_model(case.model)
    started = time.process_time()
    if recipe in ("frozen", "setfit"):
        given, found = _with_a_linear_head(case, known, recipe, base)
        proba = np.zeros((len(case.test), len(case.classes)))
        proba[:, [case.classes.index(name) for name in found]] = given
    elif recipe == ORIGINAL:
        proba = case.original(chosen)
    else:
        proba = _fine_tune(case, known, chosen, recipe, replace(settings, seed=case.seed), base)
    seconds = time.process_time() - started
    best = proba.argmax(axis=1)
    predicted, true, rare = [case.classes[place] for place in best], case.true, case.classes[-1]
    sure = proba.max(axis=1).tolist()

    def error(labels: list[str]) -> float:
        return calibration_error(reliability_table(sure, [a == b for a, b in zip(predicted, labels, strict=True)]))

    return {
        "accuracy": float(np.mean(np.array(predicted) == np.array(true))),
        "macro_f1": float(f1_score(true, predicted, labels=case.classes, average="macro", zero_division=0)),
        "rare_f1": float(f1_score(true, predicted, labels=[rare], average="macro", zero_division=0)),
        "rare_labels": int((known["gold"] == rare).sum()),
        "calibration_error": error(case.fresh_labels),
        "calibration_error_truth": error(true),
        "seconds": round(seconds, 1),
        "alignment_seconds": how_made(case.cache).get("seconds") if is_aligned else None,
    }


def _with_a_linear_head(case: Case, known: pd.DataFrame, recipe: str, base: Path) -> tuple[Any, list[str]]:
    labels = known["label"].tolist()
    if recipe == "setfit":
        return setfit_style.predict(known["text"].tolist(), labels, case.test, base_model=base, seed=case.seed)
    model = LogisticRegression(C=2.0, max_iter=500).fit(case.rows[known.index], labels)
    return model.predict_proba(case.test_rows), model.classes_.tolist()


def _fine_tune(
    case: Case, known: pd.DataFrame, chosen: list[int], recipe: str, settings: TrainingSettings, base: Path
) -> Any:
    labels = known["label"].tolist()
    targets = None
    if recipe in ("soft", "ours"):
        confidence = known["confidence"].tolist()
        targets = soft_targets(case.rows[known.index], labels, confidence, classes=case.classes, seed=case.seed)
    if recipe not in ("contrast", "ours"):
        settings = replace(settings, contrast=0.0)
    made = fit(
        known["text"].tolist(),
        labels,
        classes=case.classes,
        base_model=base,
        settings=settings,
        targets=targets,
    )
    both = case.pool.iloc[chosen]
    validation = both[both["validation"]]
    places = [case.classes.index(label) for label in validation["label"]]
    if recipe == "ours":
        sample = _random_sample(case, chosen)
        drawn = ((validation["chunk_id"].map(case.why) == RANDOM) | validation["chunk_id"].isin(sample)).tolist()
        temperature = fit_temperature(made.predict_proba(validation["text"].tolist()), places, drawn=drawn)
        correction = None if settings.balance == "none" else _correction(case, known, sample)
        made.rescale(temperature=temperature, log_prior=correction)
    return made.predict_proba(case.test)


def _random_sample(case: Case, chosen: list[int]) -> list[str]:
    reasons = case.pool.iloc[chosen][["chunk_id"]].assign(why=lambda table: table["chunk_id"].map(case.why))
    return random_part(case.pool, reasons, seed=case.seed)


def _correction(case: Case, known: pd.DataFrame, sample: list[str]) -> list[float]:
    labels = case.pool.set_index("chunk_id")["label"].loc[sample].tolist()
    counts = [int((known["label"] == name).sum()) for name in case.classes]
    return log_correction(counts, estimate_shares(labels, case.classes))


def choose(case: Case, size: int, selection: str, chosen: list[int]) -> list[int]:
    """The chosen texts and so many more that `size` of all are to be trained on."""
    while len(case.train(chosen)) < size and len(chosen) < len(case.pool):
        chosen = chosen + case.choose(chosen, selection)[:BATCH]
    surplus = len(case.train(chosen)) - size
    while surplus > 0:
        surplus -= not case.pool["validation"].iloc[chosen[-1]]
        chosen = chosen[:-1]
    return chosen


def report(rows: pd.DataFrame) -> None:
    """Prints a table for each figure; every figure is the mean over the seeds."""
    ways = ["selection", "noise", "cascade", "recipe", "size"]
    for figure in ("accuracy", "calibration_error", "calibration_error_truth", "seconds", "alignment_seconds"):
        if figure not in rows or rows[figure].isna().all():  # rows from before it was written down
            continue
        table = rows.pivot_table(index=ways, columns="data", values=figure)
        means = {"mean": table.mean(axis=1), "others": table.drop(columns=CHOSEN_ON, errors="ignore").mean(axis=1)}
        table = table.assign(**means)
        print(f"\n{figure}\n{table.round(3).to_string()}")
    _report_noise(rows)
    mine = rows[rows["recipe"] == "ours"]
    if {"random", "auto"} <= set(mine["selection"]) and mine["noise"].nunique() == 1:
        report_labels_to_reach(mine.pivot_table(index=["data", "selection"], columns="size", values="accuracy"))
    print(f"\nseeds\n{rows.groupby([*ways, 'data'])['seed'].unique().unstack().to_string()}")


def _report_noise(rows: pd.DataFrame) -> None:
    """Prints how much accuracy noise costs, on the cases that both recipes have without and with it.

    Ours, with and without a cascade, stands beside plain fine-tuning on the small LLM's labels: each way of choosing
    texts beside itself, and the package's own, `auto`, beside random texts, too.
    """
    ways = ["noise", "cascade", "selection", "recipe"]
    table = rows.pivot_table(index=["data", "seed", "size"], columns=ways, values="accuracy")
    pairs = [("random", "random"), ("auto", "auto"), ("auto", "random")]
    noises, cascades = (sorted(set(rows[key])) for key in ("noise", "cascade"))
    for noise, cascade, (mine, control) in itertools.product(noises, cascades, pairs):
        wanted = [(0.0, 0.0, mine, "ours"), (noise, cascade, mine, "ours")]
        wanted += [(rate, 0.0, control, "plain") for rate in (0.0, noise)]
        both = table[wanted].dropna() if noise and set(wanted) <= set(table.columns) else table.head(0)
        if len(both):
            right, wrong, plain_right, plain_wrong = (float(both[way].mean()) for way in wanted)
            ours, plain = right - wrong, plain_right - plain_wrong
            print(
                f"\nnoise {noise}, cascade {cascade}: ours ({mine}) loses {ours:.3f}, plain ({control}) {plain:.3f}, "
                f"{ours / plain:.2f} of it (limit 0.33; {len(both)} fits each)"
            )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--recipes", nargs="+", default=[ORIGINAL, "plain", "ours"], choices=RECIPES)
    parser.add_argument("--selection", nargs="+", default=["auto"], choices=["random", "auto"])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.08], help="error rates of the small LLM")
    parser.add_argument("--cascade", type=float, nargs="+", default=[0.1], help="shares that the large LLM labels")
    options = parser.parse_args()
    classifier.EXACT_TEXTS = 0  # bfloat16 where the decision is clear: the same classes, sooner
    finished = set(read_rows(options.out, KEYS)[KEYS].itertuples(index=False, name=None))
    for seed, folder, noise, cascade in itertools.product(options.seeds, options.data, options.noise, options.cascade):
        cache = RunFolder(options.cache / folder.name)
        case = Case(folder, seed, options.model, cache, None, noise=noise, cascade=cascade)
        for selection in options.selection:
            chosen: list[int] = []
            for size in sorted(options.sizes):
                chosen = choose(case, size, selection, chosen)
                for recipe in options.recipes:
                    key = (folder.name, seed, recipe, size, selection, noise, cascade, 0.0, made_with(options.model))
                    if key in finished:
                        continue
                    row = measure(
                        case, chosen, recipe, TrainingSettings(balance="auto" if recipe == "ours" else "none")
                    )
                    add_row(options.out, {**dict(zip(KEYS, key, strict=True)), **row})
    rows = read_rows(options.out, KEYS)
    mine = rows["data"].isin([folder.name for folder in options.data]) & (rows["made_with"] == made_with(options.model))
    mine &= rows["rare"] == 0.0
    for key in ("seed", "size", "recipe", "selection", "noise", "cascade"):
        mine &= rows[key].isin(getattr(options, key if key in vars(options) else f"{key}s"))
    report(rows[mine])


if __name__ == "__main__":
    main()
