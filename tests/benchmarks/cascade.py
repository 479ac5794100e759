"""How many wrong labels are left when the most doubtful quarter goes to the large LLM?

    python tests/benchmarks/cascade.py --data FOLDER [FOLDER ...] --model sentence-transformers/all-MiniLM-L6-v2

A folder holds data.jsonl (text, label, split) and task.json (classes with a name). No LLM is asked: both answer from
the human labels, wrong at a rate of their own, more often on hard texts, and with a confidence that knows how hard the
text is. The small one labels batches of 40 train texts drawn at random. The package sends a tenth where
`labeling.cascade` says nothing; what that does for the classifier is in few_labels.py. Every figure is in percent, the
mean over the seeds; with five sets and five seeds the mean of "both" at 240 labels has a standard error of about 0.1.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from selection import answer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from nbhelpers.doubt import doubt, examine, send_to_large
from nbhelpers.features import features
from nbhelpers.run_folder import RunFolder

NOISE = {"large": 0.02, "small": 0.12}
BATCH, BATCHES, SHARE, SHOWN = 40, 6, 0.25, (40, 120, 240)
TARGET = 7.0
WAYS = ("confidence", "classifier", "both")


def most_doubtful(doubts: Any, share: float) -> Any:
    """This share of the texts, where the large LLM has given no label yet."""
    return send_to_large(np.asarray(doubts), np.zeros(len(doubts), dtype=bool), share)


class Draw:
    """Train texts of one seed: rows of features, human labels, and what each LLM says."""

    def __init__(self, texts: list[str], gold: list[str], rows: np.ndarray, classes: list[str], seed: int):
        self.rows, self.gold, self.classes, self.seed = rows, np.array(gold, dtype=object), classes, seed
        said = {
            model: [
                answer(seed, text, label, classes, rate, model=model) for text, label in zip(texts, gold, strict=True)
            ]
            for model, rate in NOISE.items()
        }
        self.label = {model: np.array([label for label, _ in said[model]], dtype=object) for model in said}
        self.sure = {model: np.array([sure for _, sure in said[model]]) for model in said}

    def doubts(self, way: str, labels: np.ndarray, sure: np.ndarray) -> np.ndarray:
        if way == "confidence":
            return 1 - sure
        sure = np.full(len(sure), np.nan) if way == "classifier" else sure
        return doubt(self.rows[: len(labels)], labels.tolist(), sure, classes=self.classes, seed=self.seed)

    def by_batch(self, way: str) -> dict[int, float]:
        """Wrong labels in percent after each batch, as a run would send them."""
        labels, sure = self.label["small"].copy(), self.sure["small"].copy()
        large, wrong = np.zeros(len(labels), dtype=bool), {}
        for n in range(BATCH, len(labels) + 1, BATCH):
            sent = send_to_large(self.doubts(way, labels[:n], sure[:n]), large[:n], SHARE)
            large[sent], labels[sent], sure[sent] = True, self.label["large"][sent], self.sure["large"][sent]
            assert large.sum() <= SHARE * n
            wrong[n] = 100 * float(np.mean(labels[:n] != self.gold[:n]))
        return wrong

    def at_once(self, way: str, n: int) -> float:
        labels = self.label["small"][:n].copy()
        sent = most_doubtful(self.doubts(way, labels, self.sure["small"][:n]), SHARE)
        labels[sent] = self.label["large"][sent]
        return 100 * float(np.mean(labels != self.gold[:n]))

    def chased(self, way: str) -> dict[str, float]:
        """Share sent, in percent, of the wrong labels, of right ones on ambiguous texts, and of the other right ones.

        Ambiguous: the quarter whose human label a classifier, cross-validated on human labels, finds least likely.
        """
        names, given = np.unique(self.gold.astype(str), return_inverse=True)
        few = np.bincount(given)[given] < 3
        proba = np.zeros((len(given), len(names)))
        kept = np.unique(given[~few])
        model = LogisticRegression(max_iter=300)
        proba[np.ix_(~few, kept)] = cross_val_predict(model, self.rows[~few], given[~few], cv=3, method="predict_proba")
        ambiguous = np.zeros(len(given), dtype=bool)
        ambiguous[np.argsort(proba[np.arange(len(given)), given])[: len(given) // 4]] = True
        wrong = self.label["small"] != self.gold
        sent = np.zeros(len(given), dtype=bool)
        sent[most_doubtful(self.doubts(way, self.label["small"], self.sure["small"]), SHARE)] = True
        groups = {"wrong": wrong, "ambiguous": ~wrong & ambiguous, "plain": ~wrong & ~ambiguous}
        return {name: 100 * float(sent[group].mean()) for name, group in groups.items()}

    def review(self) -> tuple[int, int, int]:
        """Likely errors: listed, of these wrong, wrong in all."""
        small, wrong = self.label["small"].tolist(), self.label["small"] != self.gold
        found = examine(self.rows, small, self.sure["small"], classes=self.classes, seed=self.seed)
        listed = found["suggested"].notna().to_numpy()
        return int(listed.sum()), int(wrong[listed].sum()), int(wrong.sum())


def draws(folder: Path, model: str, seeds: int, run: RunFolder | None) -> list[Draw]:
    classes = [c["name"] for c in json.loads((folder / "task.json").read_text("utf-8"))["classes"]]
    with (folder / "data.jsonl").open(encoding="utf-8") as lines:
        train = [row for row in map(json.loads, lines) if row["split"] == "train"]
    chosen = [random.Random(seed).sample(range(len(train)), BATCH * BATCHES) for seed in range(seeds)]
    rows = features([train[i]["text"] for places in chosen for i in places], base_model=model, run=run)
    return [
        Draw([train[i]["text"] for i in places], [train[i]["label"] for i in places], block, classes, seed)
        for seed, (places, block) in enumerate(zip(chosen, np.split(rows, seeds), strict=True))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", required=True, help="encoder: a folder or a Hugging Face id")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="a folder that keeps the features for the next time")
    options = parser.parse_args()
    run = RunFolder(options.cache) if options.cache else None
    tables = {name: defaultdict(list) for name in ("batch by batch", "once at the end")}
    sets: dict[str, list[Draw]] = {f.name: draws(f, options.model, options.seeds, run) for f in options.data}
    started = time.perf_counter()
    for name, drawn in sets.items():
        for draw in drawn:
            small = draw.label["small"]
            for n in SHOWN:
                for table in tables.values():
                    table[name, n, "before"].append(100 * float(np.mean(small[:n] != draw.gold[:n])))
            for way in WAYS:
                wrong = draw.by_batch(way)
                for n in SHOWN:
                    tables["batch by batch"][name, n, way].append(wrong[n])
                    tables["once at the end"][name, n, way].append(draw.at_once(way, n))
    columns = ("before", *WAYS)
    for title, table in tables.items():
        print(f"\nWrong labels (%), {SHARE:.0%} sent {title}; 'classifier': no confidence is known")
        print(f"{'':20}" + "".join(f"{f'{n} labels':^46}" for n in SHOWN))
        print(f"{'':20}" + "".join(f"{column:>11}" for _ in SHOWN for column in columns))
        for name in sets:
            figures = (np.mean(table[name, n, column]) for n in SHOWN for column in columns)
            print(f"{name:20}" + "".join(f"{figure:11.1f}" for figure in figures))
        means = {(n, c): float(np.mean([np.mean(table[name, n, c]) for name in sets])) for n in SHOWN for c in columns}
        print(f"{'mean':20}" + "".join(f"{figure:11.1f}" for figure in means.values()))
        both = means[SHOWN[-1], "both"]
        print(f"both at {SHOWN[-1]} labels: {both:.1f}, at most {TARGET}: {'yes' if both <= TARGET else 'NO'}")
    print(f"\nSent (%) at {BATCH * BATCHES} labels: wrong labels, right ones on ambiguous texts, other right ones")
    for name, drawn in sets.items():
        shares = {way: [draw.chased(way) for draw in drawn] for way in WAYS}
        cells = (f"{np.mean([s[group] for s in shares[way]]):6.0f}" for way in WAYS for group in shares[way][0])
        print(f"{name:20}" + "".join(cells))
    print(f"{'':20}" + "".join(f"{way:^18}" for way in WAYS))
    listed, found, wrong_in_all = np.sum([draw.review() for drawn in sets.values() for draw in drawn], axis=0)
    print(
        f"\nLikely errors: {listed / sum(map(len, sets.values())):.0f} listed of {BATCH * BATCHES}, "
        f"{found / listed:.0%} of them wrong, {found / wrong_in_all:.0%} of the wrong ones listed"
    )
    print(f"{time.perf_counter() - started:.0f} s without the features")


if __name__ == "__main__":
    main()
