"""Wall time and failures of labelling against an OpenAI-compatible server that answers from human labels.

python tests/benchmarks/labeling.py --oracle ORACLE.py --data FOLDER [FOLDER ...]

ORACLE.py prints its address and takes --data, --latency, --limit and --faults. FOLDER holds data.jsonl (text, label)
and task.json (task, classes with names). Each line stands beside its limit; `plain` is the openai client under a
semaphore.
"""

import argparse
import asyncio
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pandas as pd

from nbhelpers.chunking import chunk_id
from nbhelpers.config import Config, parse_config
from nbhelpers.label_store import LabelStore
from nbhelpers.labeling import label_chunks, label_prompt

RULES = "Go by what the text is mainly about."


@contextlib.contextmanager
def oracle(script: Path, data: Path, **options: float) -> Iterator[str]:
    command = [sys.executable, str(script), "--data", str(data)]
    command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.3)
    asked = parser.parse_args()
    for data in asked.data:
        task = json.loads((data / "task.json").read_text("utf-8"))
        rows = [json.loads(line)["text"] for line in (data / "data.jsonl").open(encoding="utf-8")]
        texts = list(dict.fromkeys(rows))[: asked.texts]
        chunks = pd.DataFrame({"chunk_id": [chunk_id(text) for text in texts], "text": texts})
        for name, limit, concurrency, faults, allowed in (
            ("plain", 16, 16, 0.0, "-"),
            ("ours", 16, 16, 0.0, "<= 1.15"),
            ("ours", 8, 64, 0.0, "<= 1.3, refused < 5 %"),
            ("ours", 10_000, 16, 0.3, "failed < 1 %"),
        ):
            options = {"latency": asked.latency, "limit": limit, "faults": faults}
            with oracle(asked.oracle, data, **options) as url, tempfile.TemporaryDirectory() as folder:
                config = config_of(url, task, folder, concurrency)
                started = time.perf_counter()
                labels = plain(chunks, config) if name == "plain" else ours(chunks, config)
                ratio = (time.perf_counter() - started) / (len(texts) * asked.latency / min(limit, concurrency))
                stats = json.load(urllib.request.urlopen(url.replace("/v1", "/stats")))
                failed = 0 if labels is None else int(labels["label"].isna().sum())
                print(
                    f"{data.name:16} {name:6} limit {limit:5} at once {concurrency:3} faults {faults:.1f}: "
                    f"{ratio:.3f} x the least time, refused {stats.get('refused_429', 0) / stats['calls']:.1%}, "
                    f"failed {failed / len(texts):.2%}, asked twice {sum(stats['texts_asked_twice'].values())}  "
                    f"({allowed})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
