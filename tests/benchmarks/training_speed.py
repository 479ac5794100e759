"""How fast is fine-tuning on this CPU, beside transformers' Trainer and the recipe of Augmentoolkit's bootstrapper?

    python tests/benchmarks/training_speed.py --data FOLDER --model sentence-transformers/all-MiniLM-L6-v2 \
        --out training_speed.jsonl [--steps 30] [--rounds 3] [--parity --seeds 0 1 2 3 4]

Texts a second at batches of 16 of a set's train split, for the model and for an encoder of DistilBERT's shape (random
weights: speed does not depend on them), after a run and five steps that do not count. The ways take turns, `--rounds`
times, and the median counts; so ratios hold where the machine's speed drifts. The original pads every text to 512
tokens. The share of the peak is that of the products, forward and backward, at the speed of a large bfloat16 product
measured beside it. Last comes an iteration as a run does it, by the clock: it weighs 200 labels, fine-tunes, calibrates
on 50 texts and reads 500 others. `--parity` compares the accuracy on the test split of what `fit` makes of the model in
bfloat16 and in float32, 200 labels. Finished rows are appended to --out, and not measured again.
"""

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from plain_trainer import LONGEST, rows_of, trainer
from selection import add_row, made_with
from torch.utils.flop_counter import FlopCounterMode

from nbhelpers import encoder
from nbhelpers.calibration import fit_temperature
from nbhelpers.doubt import soft_targets
from nbhelpers.features import features
from nbhelpers.models import find_model
from nbhelpers.training import TrainingSettings, fit
from nbhelpers.training_loop import freeze_large_table

BATCH, TEXTS, NOT_COUNTED, COUNTED = 16, 1000, 5, 64
WANTED = {"Trainer, fp32": 2.2, "original": 35.0}  # times as fast


def our_way(folder: Path, texts: list[str], labels: list[int], classes: list[str], steps: int) -> float:
    """Texts a second of the package's `fit`."""
    stamps: list[float] = []
    fit(
        texts,
        [classes[label] for label in labels],
        classes=classes,
        base_model=folder,
        settings=TrainingSettings(min_steps=steps, max_steps=steps, batch_tokens=BATCH * 512),
        progress=lambda *_: stamps.append(time.perf_counter()),
    )
    return _rate(stamps)


def trainers_way(
    folder: Path, texts: list[str], labels: list[int], classes: list[str], steps: int, **options: Any
) -> float:
    """Texts a second of transformers' Trainer, which reads as much of a text as ours; `pad`: 512 tokens, padded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(classes))
    pad = options.pop("pad", False)
    longest = LONGEST if pad else TrainingSettings.train_tokens
    rows = rows_of(tokenizer, texts, labels, longest=longest, pad=pad)
    stamps: list[float] = []

    class Stamp(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        made = trainer(model, tokenizer, rows, output, max_steps=steps, **options)
        made.add_callback(Stamp())
        made.train()
    return _rate(stamps)


def _rate(stamps: list[float]) -> float:
    counted = stamps[NOT_COUNTED - 1 :] if len(stamps) > NOT_COUNTED else stamps
    return BATCH * (len(counted) - 1) / (counted[-1] - counted[0])


def iteration(what: dict[str, Any], data: Path, model: Path, classes: list[str], out: Path) -> None:
    """A row with the seconds of an iteration at 200 labels; features and alignment, made once a run, do not count."""
    if len(_rows(out, what)):
        return
    texts, labels = read(data, "train")
    rows = features(texts[:200], base_model=model)
    started = time.perf_counter()
    targets = soft_targets(rows, labels[:200], [math.nan] * 200, classes=classes, seed=0)
    made = fit(
        texts[:200], labels[:200], classes=classes, base_model=model, settings=TrainingSettings(), targets=targets
    )
    said = made.predict_proba(texts[200:250])
    made.rescale(temperature=fit_temperature(said, [classes.index(label) for label in labels[200:250]]))
    made.predict_proba(texts[250:750])
    seconds = time.perf_counter() - started
    tokens = float(encoder.token_lengths(texts[:200], model).mean())
    add_row(out, {**what, "seconds": seconds, "tokens_a_text": tokens})


def peak() -> float:
    """Operations a second of a large bfloat16 product: the best of five."""
    matrix = torch.ones(2048, 2048, dtype=torch.bfloat16)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds[1:])


def operations_a_text(folder: Path, texts: list[str]) -> float:
    """Of the products that training computes, forward and backward, padding and loss aside; the mean of some texts."""
    model, tokenizer = encoder.load_to_train("AutoModelForSequenceClassification", folder)
    freeze_large_table(model)
    some = encoder.encode(tokenizer, texts[:COUNTED], TrainingSettings.train_tokens)
    with encoder.first_token_alone(model), FlopCounterMode(display=False) as counter:
        for ids in some:
            model(**encoder.padded(tokenizer, [ids], model.device)).logits.sum().backward()
    return counter.get_total_flops() / len(some)


def distilbert(like: Path, folder: Path) -> Path:
    """An encoder of DistilBERT's shape with random weights, and another model's tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(like)
    transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read(folder: Path, split: str) -> tuple[list[str], list[str]]:
    with (folder / "data.jsonl").open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["split"] == split]
    random.Random(0).shuffle(rows)
    return [row["text"] for row in rows], [row["label"] for row in rows]


def speed(
    what: dict[str, Any], data: Path, model: Path, classes: list[str], rounds: int, out: Path
) -> Iterator[dict[str, Any]]:
    """Rows, those that were finished before first; `what` is in all of them."""
    steps = what["steps"]
    texts, names = read(data, "train")
    texts, labels = texts[:TEXTS], [classes.index(name) for name in names[:TEXTS]]
    ways: dict[str, Callable[..., float]] = {
        "ours": our_way,
        "Trainer, fp32": lambda *a: trainers_way(*a, train_sampling_strategy="group_by_length"),
        "Trainer, bf16": lambda *a: trainers_way(*a, train_sampling_strategy="group_by_length", bf16=True),
        "original": lambda *a: trainers_way(*a, pad=True),
    }
    done = [row for row in _rows(out, what).to_dict("records") if row["round"] < rounds]
    yield from done
    finished = {(row["shape"], row["way"], row["round"]) for row in done}
    with tempfile.TemporaryDirectory() as scratch, encoder.quiet():
        shapes = {"MiniLM": model, "DistilBERT": distilbert(model, Path(scratch) / "distilbert")}
        for folder, (way, run) in itertools.product(shapes.values(), ways.items()):
            if way != "original":
                run(folder, texts, labels, classes, steps)  # does not count: the first products set up their kernels
        operations = {shape: operations_a_text(folder, texts) for shape, folder in shapes.items()}
        for (shape, folder), number in itertools.product(shapes.items(), range(rounds)):
            for way, run in ways.items():
                if (shape, way, number) in finished:
                    continue
                few = NOT_COUNTED + 2 if way == "original" else steps
                rate = run(folder, texts, labels, classes, few)
                used = operations[shape] * rate / peak() if way == "ours" else None
                row = {"shape": shape, "way": way, "round": number, "texts_a_second": rate, "share_of_peak": used}
                add_row(out, {**what, **row})
                yield row


def parity(what: dict[str, Any], data: Path, model: Path, classes: list[str], seeds: list[int], out: Path) -> None:
    """Accuracy in bfloat16 and in float32, a row a seed; `what` is in all of them."""
    texts, labels = read(data, "train")
    test, true = read(data, "test")
    done = _rows(out, what)
    for seed in (seed for seed in seeds if done.empty or seed not in set(done["seed"])):
        row: dict[str, Any] = {**what, "seed": seed}
        for dtype in (torch.bfloat16, torch.float32):
            encoder.fastest_dtype = lambda dtype=dtype: dtype
            some, settings = slice(200 * seed, 200 * (seed + 1)), TrainingSettings(seed=seed)
            made = fit(texts[some], labels[some], classes=classes, base_model=model, settings=settings)
            encoder.fastest_dtype = lambda: torch.float32
            said = made.predict_proba(test).argmax(axis=1)
            row[str(dtype)] = float(np.mean([classes[i] == label for i, label in zip(said, true, strict=True)]))
        add_row(out, row)


def _rows(out: Path, what: dict[str, Any]) -> pd.DataFrame:
    rows = pd.read_json(out, lines=True) if out.exists() else pd.DataFrame()
    return rows[(rows.reindex(columns=list(what)) == pd.Series(what)).all(axis=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="encoder: a folder or a Hugging Face id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    model = find_model(options.model)
    classes = [entry["name"] for entry in json.loads((options.data / "task.json").read_text("utf-8"))["classes"]]
    kind = {"kind": "parity"} if options.parity else {"kind": "speed", "steps": options.steps}
    what = {**kind, "data": options.data.name, "made_with": made_with(options.model)}
    if options.parity:
        parity(what, options.data, model, classes, options.seeds, options.out)
        table = _rows(options.out, what).set_index("seed").loc[options.seeds, ["torch.bfloat16", "torch.float32"]]
        print(f"{table.round(4).to_string()}\nmeans {table.mean().round(4).to_dict()} (at most 0.005 apart)")
        return
    found = list(speed(what, options.data, model, classes, options.rounds, options.out))
    table = pd.DataFrame(found).groupby(["shape", "way"]).median(numeric_only=True)
    print(f"threads {torch.get_num_threads()}, {options.data.name}\n{table.round(2).to_string()}")
    for shape in table.index.levels[0]:
        ours = table.loc[(shape, "ours"), "texts_a_second"]
        for way, wanted in WANTED.items():
            print(f"{shape}: {ours / table.loc[(shape, way), 'texts_a_second']:.1f} x {way} (wanted {wanted})")
    what = {"kind": "iteration", "data": options.data.name, "made_with": made_with(options.model)}
    iteration(what, options.data, model, classes, options.out)
    took = _rows(options.out, what).iloc[0]
    print(f"an iteration at 200 labels: {took['seconds']:.0f} s (wanted 60), {took['tokens_a_text']:.0f} tokens a text")


if __name__ == "__main__":
    main()
