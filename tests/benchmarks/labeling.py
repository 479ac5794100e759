"""Labelling beside its limits: the plan, speed, faults, the cascade and local models, on several data sets.

    python tests/benchmarks/labeling.py --oracle ORACLE.py --data FOLDER [FOLDER ...] --rows ROWS.jsonl

ORACLE.py is an OpenAI-compatible server that answers from human labels; it prints its address and takes --data,
--latency, --limit and --faults. A folder holds data.jsonl (text, label, split) and task.json (task, classes with name
and description). Each figure is appended to ROWS.jsonl as it is measured, and is not measured again by a later call
with the same file. At the end they stand in a table, a column a data set. `plain client` is openai's under a semaphore.
"""

import argparse
import asyncio
import contextlib
import functools
import io
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cascade
import local_llm
import numpy as np
import openai
import pandas as pd
import plan

from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config
from nbhelpers.config_file import parse_config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, label_prompt

RULES = "Go by what the text is mainly about."
Figure = tuple[float, str]  # and what else there is to say


def config_of(url: str, task: dict[str, Any], folder: str, concurrency: int) -> Config:
    api = {"large_model": "large", "large_base_url": url, "small_model": "small", "small_base_url": url}
    return parse_config(
        {
            "api": api,
            "classification": {"classes": [c["name"] for c in task["classes"]], "desc": task["task"]},
            "path": {"input_dir": folder, "output_dir": folder},
            "system": {"concurrency_limit": concurrency},
        }
    )


def ours(chunks: pd.DataFrame, config: Config) -> pd.DataFrame:
    with LabelStore(config.path.output_dir / "labels.sqlite") as store, contextlib.redirect_stdout(io.StringIO()):
        return label_chunks(chunks, size="small", rules=RULES, config=config, store=store)


def plain(chunks: pd.DataFrame, config: Config) -> None:
    prompt, places = label_prompt(config, RULES), asyncio.Semaphore(config.system.concurrency_limit)

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=config.api.small_base_url, api_key="none") as client:

            async def ask(text: str) -> None:
                async with places:
                    turns: Any = prompt.render(text)
                    await client.chat.completions.create(model="small", messages=turns)

            await asyncio.gather(*(ask(text) for text in chunks["text"]))

    asyncio.run(main())


def planned(data: Path, asked: argparse.Namespace, *, cascade: float = 0.0) -> Figure:
    """The largest deviation of a stage or iteration, in percent."""
    with plan.serve(asked.oracle, data, latency=plan.LATENCY) as url, tempfile.TemporaryDirectory() as folder:
        made, probes, used = plan.measure(data, url, Path(folder), cascade=cascade)
    rows = made.table.iloc[:-1].to_dict("records")
    most = max(plan.deviation(row, really, plan.SHOWN) for row, really in zip(rows, used, strict=True))
    return 100 * most, f"{probes} probe calls"


def timed(data: Path, asked: argparse.Namespace, *, way: Any, limit: int, at_once: int, faults: float = 0.0) -> Figure:
    """Wall time over the least possible; with faults, failed labels in percent."""
    task = json.loads((data / "task.json").read_text("utf-8"))
    with (data / "data.jsonl").open(encoding="utf-8") as lines:
        texts = list(dict.fromkeys(json.loads(line)["text"] for line in lines))[: asked.texts]
    chunks = pd.DataFrame({"chunk_id": [chunk_id(text) for text in texts], "text": texts})
    options = {"latency": asked.latency, "limit": limit, "faults": faults}
    with plan.serve(asked.oracle, data, **options) as url, tempfile.TemporaryDirectory() as folder:
        config, started, cpu = config_of(url, task, folder, at_once), time.perf_counter(), time.process_time()
        labels = way(chunks, config)
        ratio = (time.perf_counter() - started) / (len(texts) * asked.latency / min(limit, at_once))
        cpu = (time.process_time() - cpu) / len(texts)
        stats = json.load(urllib.request.urlopen(url.replace("/v1", "/stats")))
    failed = 0.0 if labels is None else 100 * float(labels["label"].isna().mean())
    said = (
        f"{ratio:.3f} x the least time, refused {stats.get('refused_429', 0) / stats['calls']:.1%}, failed "
        f"{failed:.2f} %, asked twice {sum(stats['texts_asked_twice'].values())}, CPU {1000 * cpu:.1f} ms a call"
    )
    return (failed if faults else ratio), said


def sent_on(data: Path, asked: argparse.Namespace) -> Figure:
    """Wrong labels in percent with a quarter sent to the large LLM, batch by batch."""
    drawn = cascade.draws(data, asked.encoder, asked.seeds, None)
    before = np.mean([100 * np.mean(draw.label["small"] != draw.gold) for draw in drawn])
    n = cascade.SHOWN[-1]
    left, sure = (float(np.mean([draw.by_batch(way)[n] for draw in drawn])) for way in ("both", "confidence"))
    return left, f"before {before:.1f} %, by confidence alone {sure:.1f} %"


def locally(data: Path, asked: argparse.Namespace) -> Figure:
    """Share of the prefill rate, in percent."""
    share, said = local_llm.measure(data, asked.llm)
    return 100 * share, said


MEASURED: dict[str, tuple[str, Callable[[Path, argparse.Namespace], Figure]]] = {
    "plan: largest deviation (%)": ("<= 10", planned),
    "plan with a cascade (%)": ("<= 10", functools.partial(planned, cascade=0.25)),
    "time, limit 16, plain client": ("", functools.partial(timed, way=plain, limit=16, at_once=16)),
    "time, limit 16": ("<= 1.15", functools.partial(timed, way=ours, limit=16, at_once=16)),
    "time, limit 8 under 64": ("<= 1.3", functools.partial(timed, way=ours, limit=8, at_once=64)),
    "faults 0.3: failed (%)": ("< 1", functools.partial(timed, way=ours, limit=10_000, at_once=16, faults=0.3)),
    "cascade: wrong labels (%)": ("mean <= 7", sent_on),
    "local: of the prefill rate (%)": (">= 70", locally),
}
ITEMS = list(dict.fromkeys(what.split()[0].strip(":,") for what in MEASURED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="a file that keeps what was measured")
    parser.add_argument("--items", nargs="+", choices=ITEMS, default=ITEMS, help="only these")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--llm", default=local_llm.MODEL)
    asked = parser.parse_args()
    kept = [json.loads(line) for line in asked.rows.read_text("utf-8").splitlines()] if asked.rows.exists() else []
    settings = {name: getattr(asked, name) for name in ("texts", "latency", "seeds", "encoder", "llm")}
    names = [data.name for data in asked.data]
    kept = [row for row in kept if settings.items() <= row.items() and row["data"] in names]
    figures = {(row["what"], row["data"]): row["figure"] for row in kept}
    chosen = {what: measured for what, measured in MEASURED.items() if what.startswith(tuple(asked.items))}
    for data in asked.data:
        for what, (allowed, measure) in chosen.items():
            if (what, data.name) in figures:
                continue
            figure, said = measure(data, asked)
            figures[what, data.name] = figure
            with asked.rows.open("a", encoding="utf-8") as rows:
                row = {"what": what, "data": data.name, **settings, "figure": figure, "said": said}
                rows.write(json.dumps(row) + "\n")
            print(f"{data.name}, {what}: {figure:.3f} {allowed and f'({allowed})'}  {said}", flush=True)
    table = pd.DataFrame([{"data": data, "what": what, "figure": figure} for (what, data), figure in figures.items()])
    table = table.pivot(index="what", columns="data", values="figure").reindex([w for w in MEASURED if w in chosen])
    print("\n" + table.assign(mean=table.mean(axis=1), limit=[chosen[w][0] for w in table.index]).round(3).to_string())


if __name__ == "__main__":
    main()
