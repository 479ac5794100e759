"""Is the plan right? What was planned beside what the run then uses, for each stage and iteration.

    python tests/benchmarks/plan.py --data FOLDER [FOLDER ...] --oracle PATH_TO/oracle.py

A folder holds data.jsonl (text, label, split) and task.json (task, classes with name and description). The oracle
serves an OpenAI-compatible endpoint for such a folder and prints its address. Batches are chosen at random, so no
classifier is needed; with --cascade a share of each goes to the large LLM, too. The last columns are the deviation of
the minutes, and the largest of the others, in percent; the limit is 10. Minutes need a machine that does nothing else.
"""

import argparse
import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nbhelpers.agreement import compare_llms
from nbhelpers.cascade import send_on
from nbhelpers.config import Size
from nbhelpers.config_file import parse_config
from nbhelpers.ingest import ingest
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks
from nbhelpers.plan import Plan, make_plan
from nbhelpers.rules import make_rules
from nbhelpers.run_folder import RunFolder
from nbhelpers.selection import choose
from nbhelpers.test_set import open_test_set

PRICES = {"large_input": 3.0, "large_output": 12.0, "small_input": 0.25, "small_output": 1.0}
TRAINING = {"test_set_size": 100, "train_set_size": 40, "train_set_increment": 40, "max_iters": 3}
SHOWN = {"calls": "9,.0f", "prompt_tokens": "9,.0f", "completion_tokens": "9,.0f", "dollars": "9,.4f"}
MINUTES = {"llm_minutes": "8,.4f"}
COUNTED = ["calls", "prompt_tokens", "completion_tokens"]
LATENCY = 0.3


@contextlib.contextmanager
def serve(oracle: Path, data: Path, **options: float) -> Iterator[str]:
    """The address of an oracle that serves as long as the context lasts; `options` are its own."""
    command = [sys.executable, str(oracle), "--data", str(data)]
    command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(data: Path, url: str, folder: Path, *, cascade: float = 0.0) -> tuple[Plan, int, list[dict[str, Any]]]:
    task = json.loads((data / "task.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (data / "data.jsonl").open(encoding="utf-8")]
    (folder / "texts").mkdir()
    lines = [json.dumps({"text": row["text"]}) + "\n" for row in rows if row["split"] == "train"][:1000]
    (folder / "texts" / "texts.jsonl").write_text("".join(lines), "utf-8")
    api = {
        f"{size}_{name}": value for size in ("large", "small") for name, value in [("model", size), ("base_url", url)]
    }
    config = parse_config(
        {
            "api": api,
            "classification": {"classes": [c["name"] for c in task["classes"]], "desc": task["task"]},
            "path": {"input_dir": str(folder / "texts"), "output_dir": str(folder / "out")},
            "training": {**TRAINING, "selection": "random"},
            "labeling": {"cascade": cascade},
            "cost": {f"cost_per_million_{name}": price for name, price in PRICES.items()},
        }
    )
    run = RunFolder(config.path.output_dir)
    ingest(config, run)
    with LabelStore(run.labels) as store:
        plan, used = make_plan(config, run, store), []
        probes = int(store.usage()["calls"].sum())

        def count(size: Size, ask: Callable[[], Any]) -> Any:
            before, calls = store.usage().set_index("size")[COUNTED], all_calls(store)
            made = ask()
            more = (store.usage().set_index("size")[COUNTED] - before).loc[size].to_dict()
            sent, received = PRICES[f"{size}_input"], PRICES[f"{size}_output"]
            cost = (more["prompt_tokens"] * sent + more["completion_tokens"] * received) / 1e6
            used.append({**more, "dollars": cost, "llm_minutes": minutes(all_calls(store)[len(calls) :])})
            return made

        def label(chunks: pd.DataFrame, size: Size) -> pd.DataFrame:
            return label_chunks(chunks, size=size, rules=rules, config=config, store=store)

        rules = count("large", lambda: make_rules(config, run, store)).text
        test, pool = open_test_set(config, run)
        labels = count("large", lambda: label(test, "large"))
        count("small", lambda: compare_llms(labels, rules=rules, config=config, run=run, store=store))
        free, batches = pool.chunks, []
        for i in range(TRAINING["max_iters"]):
            n = TRAINING["train_set_increment"] if i else TRAINING["train_set_size"]
            ids = choose(free, n=n, seed=config.system.seed, strategy="random")["chunk_id"]
            chosen = free.set_index("chunk_id").loc[ids].reset_index()
            batches.append(count("small", lambda chosen=chosen: label(chosen, "small")))
            if cascade:
                so_far = pd.concat(batches, ignore_index=True)
                count("large", partial(send_on, so_far, people=set(), rules=rules, config=config, run=run, store=store))
            free = free[~free["chunk_id"].isin(set(ids))]
    return plan, probes, used


def all_calls(store: LabelStore) -> list[tuple[str, float]]:
    with sqlite3.connect(store.path) as db:
        return db.execute("SELECT created, seconds FROM calls ORDER BY call").fetchall()


def minutes(calls: list[tuple[str, float]]) -> float:
    """From the first question to the last answer."""
    times = [(datetime.fromisoformat(ended).timestamp(), seconds) for ended, seconds in calls]
    return (max(ended for ended, _ in times) - min(ended - lasted for ended, lasted in times)) / 60 if times else 0.0


def deviation(row: Mapping[str, Any], really: Mapping[str, Any], keys: Iterable[str]) -> float:
    """The largest of a row's figures, as a share of what was used."""
    return max(abs(row[key] - really[key]) / really[key] if really[key] else float(row[key]) for key in keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--cascade", type=float, default=0.0)
    options = parser.parse_args()
    for data in options.data:
        with serve(options.oracle, data, latency=LATENCY) as url, tempfile.TemporaryDirectory() as folder:
            plan, probes, used = measure(data, url, Path(folder), cascade=options.cascade)
        rows = plan.table.iloc[:-1]
        print(f"\n{data.name}: {probes} probe calls; planned / used\n")
        for row, really in zip(rows.to_dict("records"), used, strict=True):
            name = row["stage"] + (f" {row['iteration']}" if pd.notna(row["iteration"]) else "")
            pairs = "  ".join(f"{row[key]:{form}} /{really[key]:{form}}" for key, form in (SHOWN | MINUTES).items())
            off = (f"{100 * deviation(row, really, keys):5.1f} %" for keys in (MINUTES, SHOWN))
            print(f"  {name:26}{pairs}   {'  '.join(off)}")


if __name__ == "__main__":
    main()
