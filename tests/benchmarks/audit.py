"""Does the interval of an audit hold the truth, and how much narrower is it than the audit's alone?

    python tests/benchmarks/audit.py --data FOLDER [FOLDER ...]

A folder holds data.jsonl (text, label, split) and task.json (classes). For each set and each error rate of the large
LLM: a classifier (TF-IDF and logistic regression) is trained on a few labels; then, again and again, a test set is
drawn from the other texts, some of it is checked by a person, and the interval is compared with the classifier's
accuracy over all the other texts. Whether an interval holds the truth is asked of the test that draws its ends, which
is 15 times faster than the ends themselves; those are computed, and compared with it, for the first --widths audits.
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from selection import answer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from nbhelpers import audit
from nbhelpers.evaluation import accuracy_interval


def simulate(agrees: np.ndarray, right: np.ndarray, *, n: int, m: int, audits: int, widths: int) -> dict[str, float]:
    """Shares of audits whose interval holds the truth, and mean widths; the same for the audit alone."""
    rng, truth, rows, ends = np.random.default_rng(0), float(right.mean()), [], []
    spent = 0.05 * audit.NUISANCE_SHARE

    @cache
    def holds(*counts: int) -> bool:
        return audit._p_value(truth, np.array(counts, dtype=float)[:, None], spent) > 0.05 - spent

    for number in range(audits):
        test = rng.choice(len(agrees), n, replace=False)
        on, hit = agrees[test], right[test]
        a, r = on[:m], hit[:m]  # the test set is in random order, so its first m are a random m
        u1 = int(on[m:].sum())
        held = holds(*(int(k.sum()) for k in (a & r, a & ~r, ~a & r, ~a & ~r)), u1, n - m - u1)
        low, high = accuracy_interval(int(r.sum()), m)
        rows.append((held, low <= truth <= high))
        if number < widths:
            found = audit.truth_interval(on, range(m), r)
            ends.append((found.high - found.low, high - low, (found.low <= truth <= found.high) == held))
    held, alone = np.mean(rows, axis=0)
    width, wide, same = np.mean(ends, axis=0)
    return {"held": held, "alone": alone, "width": width, "wide": wide, "same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with data.jsonl and task.json")
    parser.add_argument("--audits", type=int, default=500)
    parser.add_argument("--train", type=int, default=400, help="texts that the classifier is trained on")
    parser.add_argument("--test", type=int, default=200, help="texts in the test set")
    parser.add_argument("--checked", type=int, default=40, help="of these, texts that a person checks")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.02, 0.08], help="the large LLM's error rates")
    parser.add_argument("--widths", type=int, default=40, help="audits whose interval is computed, at least 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.audits} audits, test set {options.test}, checked {options.checked}; limit: held >= 0.940\n")
    print("set                noise truth  agree  held   alone  width  alone  ratio  same  CPU seconds")
    for folder in options.data:
        classes = [entry["name"] for entry in json.loads((folder / "task.json").read_text("utf-8"))["classes"]]
        table = pd.read_json(folder / "data.jsonl", lines=True, dtype=False).sample(frac=1, random_state=options.seed)
        table = table.sort_values("split", ascending=False, kind="stable")  # train first
        for noise in options.noise:
            pairs = zip(table["text"], table["label"], strict=True)
            said = [answer(0, text, label, classes, noise, model="large")[0] for text, label in pairs]
            train, rest = table.iloc[: options.train], table.iloc[options.train :]
            model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30))
            predicted = model.fit(train["text"], said[: options.train]).predict(rest["text"])
            agrees, right = predicted == np.array(said[options.train :]), predicted == rest["label"].to_numpy()
            start = time.process_time()
            f = simulate(agrees, right, n=options.test, m=options.checked, audits=options.audits, widths=options.widths)
            figures = [
                right.mean(),
                agrees.mean(),
                f["held"],
                f["alone"],
                f["width"],
                f["wide"],
                f["width"] / f["wide"],
            ]
            columns = "  ".join(f"{figure:.3f}" for figure in figures)
            print(
                f"{folder.name:18} {noise:<5} {columns}  {f['same']:.2f}  {time.process_time() - start:.0f}", flush=True
            )


if __name__ == "__main__":
    main()
