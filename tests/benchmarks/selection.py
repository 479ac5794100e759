"""How many labels does active selection save, and does it find a rare class?

    python tests/benchmarks/selection.py --data FOLDER [FOLDER ...] --model sentence-transformers/all-MiniLM-L6-v2 \
        --cache FOLDER --out selection.jsonl [--rare 0.05] [--without-original]

A folder holds data.jsonl (text, label, split) and task.json (task, classes with name and description). No LLM is asked:
the small one answers from the human labels, wrong at a rate of its own. The classifier is a logistic regression on
frozen features; few_labels.py does the same with the fine-tuned one. It is trained without the validation texts. Texts
are chosen by the package, in batches of 40 of a pool of 1,800. Accuracy is against the human labels of the test split.
`--rare` thins the last class. `original` is Augmentoolkit's fine-tuning on the texts of `random`, at the sizes of the
table only: it takes minutes a size where texts are long. Finished rows are appended to --out, and not computed again.
"""

import argparse
import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import original_style
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from nbhelpers import alignment, classifier, training
from nbhelpers.chunking import near_duplicate_groups
from nbhelpers.class_texts import describe_classes
from nbhelpers.doubt import doubt, send_to_large
from nbhelpers.features import features
from nbhelpers.models import find_model
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import Evidence, choose, random_order, validation_share, weigh

ORIGINAL = "original"
STRATEGIES = ("random", "auto", ORIGINAL)
POOL, TEST, BATCH = 2000, 200, 40  # as a run of the referee; texts of the test set are not in the pool
NOISE, NOISE_RARE = 0.08, 0.02
NOISE_LARGE, NOISE_LARGE_RARE = 0.02, 0.01
ANSWER = ["label", "confidence"]
LABELS_OF_RANDOM = 400  # what active selection must reach with fewer
SHOWN = (40, 80, 120, 200, 400)  # of all sizes, and the only ones of `original`
CHOICE = 1  # raise it when other texts would be chosen, or the LLMs answer otherwise: selection, cascade, `answer`


def answer(
    seed: int, text: str, gold: str, classes: list[str], rate: float, *, model: str = "small"
) -> tuple[str, float]:
    """Label and its probability as the project's oracle gives them (its `Oracle.answer`): same hashes, same draws.

    A text is hard from 0 to 1 for every model alike, and labelled wrong with probability 2 * rate * hard.
    """
    text = " ".join(text.split())
    rng = random.Random(hashlib.sha256(f"{seed}|{model}|{text}".encode()).digest())
    hard = random.Random(hashlib.sha256(f"{seed}|{text}".encode()).digest()).random()
    error = min(0.9, 2 * rate * hard)
    wrong = rng.random() < error
    others = [name for name in classes if name != gold]
    label = rng.choice(others) if wrong and others else gold
    return label, min(max(1 / len(classes) + 0.02, 1 - error * rng.uniform(0.6, 1.4)), 0.999)


def name_of(model: str) -> str:
    """An encoder's name in a row: a Hugging Face id, or the end of a folder's path."""
    return "/".join(Path(model).parts[-2:])


def made_with(model: str) -> str:
    """What a row is made with, beside its keys: of another encoder, recipe or choice it says nothing."""
    return f"{name_of(model)}, recipe {training.RECIPE}, alignment {alignment.RECIPE}, choice {CHOICE}"


def arguments(doc: str, *, seeds: Sequence[int] = range(5)) -> argparse.ArgumentParser:
    """A command line with what all programs take that measure on a Case; `doc`: of the program, `seeds`: by default."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", required=True, help="encoder: a folder or a Hugging Face id")
    parser.add_argument("--cache", type=Path, required=True, help="a folder that keeps the features for the next time")
    parser.add_argument("--out", type=Path, required=True, help="finished rows, a line each; a second start goes on")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    return parser


def add_row(out: Path, row: dict[str, Any]) -> None:
    """Appends a finished row to those of earlier starts."""
    with out.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def thin(rows: list[dict[str, str]], rare: str, share: float) -> list[dict[str, str]]:
    """The rows, with so few of the class `rare` that they make up `share` of what is left."""
    keep, kept = round(share / (1 - share) * sum(row["label"] != rare for row in rows)), []
    for row in rows:
        if row["label"] != rare or keep > 0:
            keep -= row["label"] == rare
            kept.append(row)
    return kept


class Case:
    """The pool and the test split of one set and seed, with the labels that the LLMs would give.

    Labels are the small one's, wrong at the rate `noise`; of each batch that is chosen, the most doubtful are replaced
    by the large one's, so that it gave the share `cascade` of all so far.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        model: str,
        cache: RunFolder,
        rare: float | None,
        *,
        noise: float | None = None,
        cascade: float = 0.0,
    ):
        task = json.loads((folder / "task.json").read_text("utf-8"))
        self.seed, self.model, self.cache = seed, model, cache
        self.classes = [entry["name"] for entry in task["classes"]]
        with (folder / "data.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        random.Random(seed).shuffle(rows)
        train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
        if rare is not None:
            train, test = (thin(part, self.classes[-1], rare) for part in (train, test))
        texts = {hashlib.sha256(row["text"].encode()).hexdigest()[:16]: row for row in train[:POOL]}
        ids = random_order(list(texts), seed)[TEST:]
        self.pool = pd.DataFrame({"chunk_id": ids, "text": [texts[chunk_id]["text"] for chunk_id in ids]})
        self.pool["near_group"] = near_duplicate_groups(self.pool["text"].tolist())
        small = noise if noise is not None else NOISE if rare is None else NOISE_RARE
        large = min(small, NOISE_LARGE_RARE if small <= NOISE_RARE else NOISE_LARGE)  # both right: the human labels
        self.cascade, self.noise = cascade, {"small": small, "large": large}
        self.pool["gold"] = [texts[chunk_id]["label"] for chunk_id in ids]
        self.said = {size: self.labelled(self.pool["text"], self.pool["gold"], size) for size in self.noise}
        self.pool[ANSWER] = self.said["small"]
        self.sent: list[int] = []
        self.pool["validation"] = validation_share(ids)
        self.test, self.true = [row["text"] for row in test], [row["label"] for row in test]
        described = [f'{i}. "{entry["name"]}": {entry["description"]}' for i, entry in enumerate(task["classes"])]
        self.class_rows = features(
            describe_classes(self.classes, " ".join([task["task"], *described])), base_model=model, run=cache
        )
        self.rows = features(self.pool["text"].tolist(), base_model=model, run=cache)
        self.test_rows = features(self.test, base_model=model, run=cache)
        self.why: dict[str, str] = {}

    @property
    def aligned(self) -> Path:
        """The encoder that the package fine-tunes, prepared on the pool's texts."""
        from nbhelpers.alignment import aligned_encoder

        return aligned_encoder(self.pool["text"].tolist(), base_model=self.model, seed=self.seed, run=self.cache)

    def labelled(self, texts: Iterable[str], gold: Iterable[str], size: str) -> pd.DataFrame:
        """What the large or the small LLM says of each text: label and confidence."""
        rate = self.noise[size]
        said = [answer(self.seed, *one, self.classes, rate, model=size) for one in zip(texts, gold, strict=True)]
        return pd.DataFrame(said, columns=ANSWER)

    def choose(self, chosen: list[int], strategy: str) -> list[int]:
        """Places in the pool of the next batch; `why` says of each text so far why it was chosen."""
        if not chosen:
            self.why, self.sent = {}, []
            self.pool[ANSWER] = self.said["small"]
        left = np.setdiff1d(np.arange(len(self.pool)), chosen)
        more = choose(
            self.pool.iloc[left],
            n=BATCH,
            seed=self.seed,
            strategy=strategy,
            evidence=self.evidence(left, chosen) if strategy == "auto" else None,
            labelled_groups=self.pool["near_group"].iloc[chosen].tolist(),
        )
        self.why.update(zip(more["chunk_id"], more["why"], strict=True))
        places: list[int] = self.pool.reset_index().set_index("chunk_id").loc[more["chunk_id"], "index"].tolist()
        self._send_on([*chosen, *places])
        return places

    def _send_on(self, chosen: list[int]) -> None:
        known = self.pool.iloc[chosen]
        doubts = self.doubts(self.rows[chosen], known)
        sent = known.index[send_to_large(doubts, known.index.isin(self.sent), self.cascade)]
        self.pool.loc[sent, ANSWER] = self.said["large"].loc[sent]
        self.sent += sent.tolist()

    @cached_property
    def fresh_labels(self) -> list[str]:
        """Labels of the test split that came about as those of the pool did."""
        said = self.labelled(self.test, self.true, "small")
        if self.cascade:
            sent = send_to_large(self.doubts(self.test_rows, said), np.zeros(len(said), dtype=bool), self.cascade)
            said.loc[sent, ANSWER] = self.labelled(self.test, self.true, "large").loc[sent]
        return said["label"].tolist()

    def doubts(self, rows: np.ndarray, said: pd.DataFrame) -> np.ndarray:
        """How likely each label is wrong (see doubt)."""
        labels, confidence = said["label"].tolist(), said["confidence"].tolist()
        return doubt(rows, labels, confidence, classes=self.classes, seed=self.seed)

    def evidence(self, left: np.ndarray, chosen: list[int]) -> Evidence:
        known = self.train(chosen)
        labelled = self.rows[known.index]
        return weigh(
            self.rows[left],
            self.class_rows,
            classes=self.classes,
            labelled=labelled,
            labels=known["label"].tolist(),
            doubts=self.doubts(labelled, known).tolist(),
        )

    def train(self, chosen: list[int]) -> pd.DataFrame:
        known = self.pool.iloc[chosen]
        return known[~known["validation"]]

    def measure(self, chosen: list[int], balance: str) -> dict[str, float]:
        """Figures on the test split of a logistic regression that is trained on the chosen texts."""
        known = self.train(chosen)
        if known["label"].nunique() < 2:  # as may be in a first batch at random
            return self._figures(chosen, [known["label"].iloc[0]] * len(self.true))
        weights = None if balance == "none" else "balanced"
        logistic = LogisticRegression(C=2.0, max_iter=300, class_weight=weights)
        predicted = logistic.fit(self.rows[known.index], known["label"]).predict(self.test_rows).tolist()
        return self._figures(chosen, predicted)

    def original(self, chosen: list[int]) -> np.ndarray[Any, Any]:
        """(texts of the test split, classes): probabilities by Augmentoolkit's fine-tuning on the chosen texts."""
        known, base = self.train(chosen), find_model(self.model)
        texts, labels = known["text"].tolist(), known["label"].tolist()
        return original_style.predict(texts, labels, self.test, classes=self.classes, base_model=base, seed=self.seed)

    def measure_original(self, chosen: list[int]) -> dict[str, float]:
        """The same figures of Augmentoolkit's fine-tuning."""
        return self._figures(chosen, [self.classes[place] for place in self.original(chosen).argmax(axis=1)])

    def _figures(self, chosen: list[int], predicted: list[str]) -> dict[str, float]:
        true, rare = np.array(self.true), self.classes[-1]
        return {
            "accuracy": float(np.mean(true == np.array(predicted))),
            "macro_f1": float(f1_score(true, predicted, labels=self.classes, average="macro", zero_division=0)),
            "rare_f1": float(f1_score(true, predicted, labels=[rare], average="macro", zero_division=0)),
            "rare_labels": int((self.pool["gold"].iloc[chosen] == rare).sum()),
        }


def labels_to_reach(curve: "pd.Series[float]", target: float) -> float:
    """Labels at which a curve (accuracy by labels) first reaches the target, between two batches by the straight line.

    Example: 0.7 at 40 and 0.8 at 80 labels reach 0.75 at 60; a curve that stays below never does (inf).
    """
    before: tuple[float, float] | None = None
    for labels, accuracy in curve.items():
        if accuracy >= target:
            if before is None:
                return float(labels)
            return before[0] + (labels - before[0]) * (target - before[1]) / (accuracy - before[1])
        before = (labels, accuracy)
    return float("inf")


def report_labels_to_reach(curves: pd.DataFrame) -> None:
    """Prints how many labels of `auto` do what 400 of `random` do. `curves`: accuracy, a row a (set, strategy).

    Beside it stand those of `random` itself: less than 1 where its curve reaches the goal before 400, by chance. What
    does not reach it counts as the most labels there are.
    """
    if LABELS_OF_RANDOM not in curves:
        return
    goals = curves[LABELS_OF_RANDOM].unstack()["random"].dropna()
    print(f"Labels to reach what random reaches at {LABELS_OF_RANDOM}, as a share of these:")
    for strategy, targets in (("auto", " (target 0.60), most {:.2f} (target 1.10)"), ("random", ", most {:.2f}")):
        needed = {name: labels_to_reach(curves.loc[(name, strategy)].dropna(), goal) for name, goal in goals.items()}
        shares = {name: min(n, curves.columns.max()) / LABELS_OF_RANDOM for name, n in needed.items()}
        each = "  ".join(f"{name} {'>' if np.isinf(needed[name]) else ''}{share:.2f}" for name, share in shares.items())
        print(f"{strategy}: {each}")
        print(f"{strategy}: mean {np.mean([*shares.values()]):.2f}" + targets.format(max(shares.values())))


def report(rows: pd.DataFrame, *, rare: bool) -> None:
    """Prints the tables; every figure is the mean over the seeds."""
    means = rows.groupby(["data", "strategy", "labels"]).mean(numeric_only=True)
    seeds = rows.groupby("data")["seed"].nunique()
    if rare:
        most = rows["labels"].max()
        table = means.xs(most, level="labels")[["rare_f1", "rare_labels", "accuracy"]].unstack("strategy")
        print(f"F1 of the last class, texts of it among {most} labels, accuracy\n{table.round(3).to_string()}")
        f1 = table["rare_f1"].mean()
        print(f"mean F1: auto {f1['auto']:.3f} (target 0.65), {f1['auto'] / f1['random']:.2f} x random (target 1.3)")
    else:
        curves = means["accuracy"].unstack("labels")
        shown = [n for n in SHOWN if n in curves]
        print(f"Accuracy by labels\n{curves[shown].round(3).to_string()}")
        print(curves[shown].groupby("strategy").mean().round(3).rename(lambda name: f"mean, {name}").to_string())
        report_labels_to_reach(curves)
    print(f"seeds: {seeds.to_dict()}\n")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rare", type=float, help="thin the last class to this share; compared with balance: none")
    parser.add_argument("--labels", type=int, nargs="+", help="measure at these sizes only")
    parser.add_argument("--without-original", action="store_true", help="leave out the slowest strategy")
    options = parser.parse_args()
    classifier.EXACT_TEXTS = 0  # bfloat16 where the decision is clear: the same classes, sooner
    sizes = options.labels or list(range(BATCH, 201 if options.rare else 441, BATCH))
    keys = ["data", "seed", "strategy", "labels", "rare", "model"]
    done = pd.read_json(options.out, lines=True) if options.out.exists() else pd.DataFrame(columns=keys)
    rare, model = options.rare or 0.0, name_of(options.model)
    finished = set(done.reindex(columns=keys).fillna(0.0).itertuples(index=False, name=None))
    strategies = [strategy for strategy in STRATEGIES if strategy != ORIGINAL or not options.without_original]
    for folder, seed in itertools.product(options.data, options.seeds):
        pairs = [(strategy, n) for strategy in strategies for n in sizes if strategy != ORIGINAL or n in SHOWN]
        wanted = {(folder.name, seed, strategy, n, rare, model) for strategy, n in pairs} - finished
        if not wanted:
            continue
        case = Case(folder, seed, options.model, RunFolder(options.cache / folder.name), options.rare)
        for strategy in sorted({key[2] for key in wanted}):
            chosen: list[int] = []
            balance = "auto" if strategy == "auto" and options.rare is not None else "none"
            for n in range(BATCH, max(sizes) + 1, BATCH):
                chosen += case.choose(chosen, "random" if strategy == ORIGINAL else strategy)
                key = (folder.name, seed, strategy, n, rare, model)
                if key in wanted:
                    figures = case.measure_original(chosen) if strategy == ORIGINAL else case.measure(chosen, balance)
                    add_row(options.out, {**dict(zip(keys, key, strict=True)), **figures})
    rows = pd.read_json(options.out, lines=True)
    names = [folder.name for folder in options.data]
    mine = rows["data"].isin(names) & (rows["rare"] == rare) & (rows["model"] == model)
    mine &= rows["labels"].isin(sizes) & rows["seed"].isin(options.seeds) & rows["strategy"].isin(strategies)
    report(rows[mine], rare=options.rare is not None)


if __name__ == "__main__":
    main()
