"""Does the stop rule hold: how often it stops or claims wrongly, and whether the intervals hold the accuracy.

    python tests/benchmarks/statistics.py --out statistics.jsonl
    python tests/benchmarks/statistics.py --out statistics.jsonl --oracle oracle.py \
        --real FOLDER=TARGET [FOLDER=TARGET ...]

Without --real: simulated runs (tests/runs_simulated.py), 1,000 of each setting, and two controls that must fail: the
exact bound without counting the looks, and the plain accuracy.

With --real: whole runs of the package against an oracle, a chat server that answers from human labels with mistakes. A
folder holds data.jsonl (text, label) and task.json (task, classes). Of its texts, shuffled by the seed, the run is
given --pool; the others are fresh. The claim is held against the final classifier's accuracy on these by the labels
that the large model would give. Run i has seed i // folders.

Finished rows are appended to --out, and are not made again.
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder, in which `statistics` hides the standard library's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runs_simulated import Setting, simulate

from nbhelpers.agreement import compare_llms
from nbhelpers.classifier import Classifier
from nbhelpers.config import Config
from nbhelpers.config_file import parse_config
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, write_test_labels
from nbhelpers.reliability import calibration_error, reliability_table
from nbhelpers.rounds import Rounds
from nbhelpers.rules import make_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.test_set import open_test_set
from nbhelpers.training import RECIPE

OFFSETS = (-0.02, -0.001, 0.02, 0.05)  # of the accuracy from the target
WRONG, COVERED, HELD = 0.05, 0.95, 44 / 50


def simulated(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    """What to simulate, as far as it is known before: a row's first columns."""
    for target, size, classes, offset in product((0.8, 0.9), (100, 200, 300, 600), (2, 5, 20), OFFSETS):
        setting = Setting(accuracy=round(target + offset, 4), target=target, test_size=size, classes=classes)
        yield {"kind": "simulated", "rule": "lower_bound", "runs": runs, "seed": seed, **asdict(setting)}
    for target, size, rise in product((0.8, 0.9), (100, 300), (0.1, 0.3)):
        setting = Setting(accuracy=target - 0.001, target=target, test_size=size, classes=5, rise=rise)
        yield {"kind": "simulated", "rule": "lower_bound", "runs": runs, "seed": seed, **asdict(setting)}
    for rule, size in product(("naive", "accuracy"), (100, 200, 300, 600)):
        setting = Setting(accuracy=0.899, target=0.9, test_size=size, classes=5)
        yield {"kind": "simulated", "rule": rule, "runs": runs, "seed": seed, **asdict(setting)}


def run_simulated(row: dict[str, Any]) -> dict[str, Any]:
    setting = Setting(**{name: row[name] for name in Setting.__dataclass_fields__})
    return asdict(simulate(setting, runs=row["runs"], seed=row["seed"], rule=row["rule"]))


def real(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    folders = [entry.rpartition("=")[::2] for entry in options.real]
    for i in range(options.runs):
        folder, target = folders[i % len(folders)]
        sizes = {"pool": options.pool, "test": options.test, "step": options.step, "iterations": options.iterations}
        row = {"kind": "real", "data": Path(folder).name, "target": float(target), "seed": i // len(folders), **sizes}
        yield {**row, "noise": options.noise, "model": options.model, "recipe": RECIPE}


def run_real(row: dict[str, Any], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One whole run, and the accuracy of its final classifier on fresh texts by the large model's labels."""
    started = time.perf_counter()
    oracle = _module(options.oracle)
    task = json.loads((folder / "task.json").read_text("utf-8"))
    with (folder / "data.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(row["seed"]).shuffle(rows)
    given, fresh = rows[: row["pool"]], rows[row["pool"] :]
    known = {oracle.squeeze(one["text"]) for one in given}
    fresh = [one for one in fresh if oracle.squeeze(one["text"]) not in known]
    noise = dict(entry.split("=") for entry in row["noise"].split(","))
    large = oracle.Oracle(folder, {name: float(rate) for name, rate in noise.items()}, row["seed"])
    command = [sys.executable, options.oracle, "--data", folder, "--noise", row["noise"], "--seed", str(row["seed"])]
    with tempfile.TemporaryDirectory() as place:
        texts = Path(place) / "texts" / "rows.jsonl"
        texts.parent.mkdir()
        texts.write_text("".join(json.dumps({"text": one["text"]}) + "\n" for one in given), "utf-8")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                config = _config(row, task, place=Path(place), url=server.stdout.readline().strip(), options=options)
                report, classifier = _run(config)
            finally:
                server.terminate()
    proba = classifier.predict_proba([one["text"] for one in fresh])
    said = [classifier.classes[place] for place in proba.argmax(axis=1)]
    by = {size: [large.answer(size, oracle.squeeze(one["text"]), one["label"])[0] for one in fresh]
          for size in ("large", "small")}  # fmt: skip
    right = {name: [a == b for a, b in zip(said, labels, strict=True)]
             for name, labels in {**by, "people": [one["label"] for one in fresh]}.items()}  # fmt: skip
    accuracy, claim = sum(right["large"]) / len(fresh), report["claim"]
    off = {name: calibration_error(reliability_table(proba.max(axis=1).tolist(), hits)) for name, hits in right.items()}
    return {
        "status": report["status"],
        "labels": report["iterations"][-1]["labels"],
        "shown": report["final"]["accuracy"],
        **claim,
        "fresh": len(fresh),
        "accuracy": accuracy,
        "holds": claim["lower_bound"] <= accuracy,
        "calibration_error": off,
        "seconds": round(time.perf_counter() - started),
    }


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config(row: dict[str, Any], task: dict[str, Any], *, place: Path, url: str, options: argparse.Namespace) -> Config:
    api = {f"{size}_{key}": value for size in ("large", "small") for key, value in
           {"model": size, "base_url": url, "api_key": "none"}.items()}  # fmt: skip
    described = " ".join(f'"{entry["name"]}": {entry["description"]}' for entry in task["classes"])
    return parse_config(
        {
            "api": api,
            "classification": {
                "classes": [entry["name"] for entry in task["classes"]],
                "desc": f"{task['task']} {described}",
            },
            "path": {"input_dir": str(place / "texts"), "output_dir": str(place / "out")},
            "system": {
                "chunk_size": 6000,
                "required_accuracy": row["target"],
                "stop_rule": "lower_bound",
                "seed": row["seed"],
            },
            "training": {
                "model_path": options.model,
                "max_iters": row["iterations"],
                "train_set_size": row["step"],
                "train_set_increment": row["step"],
                "test_set_size": row["test"],
            },
        }
    )


def _run(config: Config) -> tuple[dict[str, Any], Classifier]:
    """What the notebooks 1 to 4 do."""
    run = RunFolder(config.path.output_dir)
    with LabelStore(run.labels) as store:
        ingest(config, run)
        rules = make_rules(config, run, store)
        test, _ = open_test_set(config, run)
        labels = label_chunks(test, size="large", rules=rules.text, config=config, store=store)
        write_test_labels(run, labels, config=config)
        compare_llms(labels, rules=rules.text, config=config, run=run, store=store)
        report = Rounds(config, run, store).run_until_done()
    return report, Classifier.load(run.classifiers / report["final"]["classifier"])


def summarise(rows: list[dict[str, Any]], runs: int) -> None:
    """The figures that the targets are about."""
    found = [row for row in rows if row["kind"] == "simulated" and row["rule"] == "lower_bound"]
    if found:
        slack = 3 * (COVERED * (1 - COVERED) / runs) ** 0.5  # of one setting
        print(f"\n{len(found)} settings of {runs} simulated runs each; the last one is without a promise")
        limits = {
            "stopped_wrongly": (max, f", at most {WRONG}"),
            "claimed_wrongly": (max, f", at most {WRONG}"),
            "covered": (min, f", at least {COVERED} - {slack:.3f}"),
            "final_covered": (min, ""),
        }
        for name, (worst, limit) in limits.items():
            values = [row[name] for row in found]
            print(f"  {name:16} worst {worst(values):.3f}{limit}; mean {sum(values) / len(values):.3f}")
        for rule in ("naive", "accuracy"):
            values = [row["stopped_wrongly"] for row in rows if row.get("rule") == rule]
            print(f"  control {rule:8} stopped_wrongly {min(values):.3f} to {max(values):.3f}")
    found = [row for row in rows if row["kind"] == "real"]
    if found:
        held, reached = sum(row["holds"] for row in found), sum(row["status"] == "target_reached" for row in found)
        print(f"\n{len(found)} real runs, {reached} reached their target; the claim holds in {held} (limit {HELD:.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="finished rows, a JSON object a line")
    parser.add_argument("--runs", type=int, help="1,000 of each simulated setting, or 50 real ones in all")
    parser.add_argument("--seed", type=int, default=0, help="of the simulations")
    parser.add_argument("--real", nargs="+", metavar="FOLDER=TARGET", help="data sets, each with a target accuracy")
    parser.add_argument("--oracle", type=Path, help="the chat server's script, whose Oracle gives the large labels")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="training.model_path")
    parser.add_argument("--noise", default="large=0.02,small=0.08")
    parser.add_argument("--pool", type=int, default=1500)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--step", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args()
    if options.real and options.oracle is None:
        parser.error("--real needs --oracle")
    options.runs = options.runs or (50 if options.real else 1000)
    done = [json.loads(line) for line in options.out.read_text("utf-8").splitlines()] if options.out.exists() else []
    folders = {Path(name).name: Path(name) for name in (entry.rpartition("=")[0] for entry in options.real or [])}
    rows = []
    for wanted in real(options) if options.real else simulated(options.runs, options.seed):
        row = next((row for row in done if wanted.items() <= row.items()), None)
        if row is None:
            found = run_real(wanted, folders[wanted["data"]], options) if options.real else run_simulated(wanted)
            row = {**wanted, **found}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(*(f"{name}={round(value, 4) if isinstance(value, float) else value}" for name, value in row.items()))
    summarise(rows, options.runs)


if __name__ == "__main__":
    main()
