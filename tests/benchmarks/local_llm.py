"""How near does labelling by a local model come to the rate at which this machine can read for it, and is it right?

    python tests/benchmarks/local_llm.py --data FOLDER [FOLDER ...]

A folder holds data.jsonl (text, label) and task.json (task, classes with name, description). The prefill rate is that
of plain forward passes over as many tokens a pass, with nothing before them. In labelling only tokens count that must
be computed: of each prompt what follows the beginning that all share, the class names, and that beginning once; making
the prompts and looking back at the rules are in its time. The two take turns, and the median of the shares counts; the
limit is 70 %. A label is the class of the highest score, as in the package, and right where it is the folder's.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nbhelpers.labeling import LabelPrompt
from nbhelpers.local_llm import ANSWER_START, BATCH_TOKENS, LocalLLM, _batches, _common_prefix, center_scores
from nbhelpers.prompt_files import LABEL_PROMPT, load_prompt

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LIMIT = 0.7


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(data: Path, model: str = MODEL, *, texts: int = 200, repeats: int = 5) -> tuple[float, str]:
    """Share of the prefill rate that labelling reaches; in words the two rates, and how often a label is right."""
    task = json.loads((data / "task.json").read_text("utf-8"))
    classes = [c["name"] for c in task["classes"]]
    rules = "\n".join(f"{number}. {c['name']}: {c['description']}" for number, c in enumerate(task["classes"]))
    prompt = LabelPrompt(load_prompt(LABEL_PROMPT, [])[0], classes, task["task"], rules, [])
    with (data / "data.jsonl").open(encoding="utf-8") as lines:
        table = pd.DataFrame(json.loads(line) for line, _ in zip(lines, range(texts), strict=False))
    chosen = table["text"].tolist()

    llm = LocalLLM(model)
    network, _ = llm._load()
    fed = sum(len(llm._name_ids(ANSWER_START, name)) - 1 for name in classes)
    prompts, _ = llm._fit(chosen, prompt.render, ANSWER_START, llm._context() - fed - 1)
    shared = _common_prefix(min(prompts), max(prompts))
    lengths = [len(ids) - shared + fed for ids in prompts]
    passes = [sum(lengths[i] for i in batch) for batch in _batches(lengths, 0, BATCH_TOKENS)]

    def read() -> None:
        with torch.inference_mode():
            for tokens in passes:
                network(input_ids=torch.randint(1000, (1, tokens)), use_cache=False, logits_to_keep=1)

    scores = np.zeros((len(chosen), len(classes)), dtype=np.float32)

    def label() -> None:
        for batch in llm.score_classes(chosen, classes, prompt.render):
            scores[batch.indices] = batch.scores

    read()
    pairs = [(seconds(read), seconds(label)) for _ in range(repeats)]
    needed, plain = shared + sum(lengths), sum(lengths)
    share = float(np.median([(needed / labelling) / (plain / reading) for reading, labelling in pairs]))
    reading, labelling = np.median(pairs, axis=0)
    labels = np.array(classes)[center_scores(scores).argmax(axis=1)]
    said = f"{len(chosen) / labelling:.1f} texts/s, {needed / labelling:.0f} of {plain / reading:.0f} tokens/s"
    said += f"; {np.mean(labels == table['label']):.0%} right"
    return share, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    for data in asked.data:
        share, said = measure(data, asked.model, texts=asked.texts, repeats=asked.repeats)
        print(f"{data.name:20} {share:.0%} of the prefill rate, at least {LIMIT:.0%}: {said}", flush=True)


if __name__ == "__main__":
    main()
