"""A folder of texts whose class a keyword tells, with a tiny model and a server that knows the keywords.

case = Case(folder, ["not spam", "spam"], [120, 80])
with ChatServer(case.answer) as server:
    config = case.write(server.url, training={"max_iters": 1})
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from chat_server import keyword_labeller
from tiny_models import tiny_bert

COMMON = "the a of we they was in and very today some people said about with many more than last this town new"
FILLER = COMMON.split()
# Dollars for a million tokens, for `Case.write(url, cost=PRICES)`.
PRICES = {
    "cost_per_million_large_input": 2.0,
    "cost_per_million_large_output": 8.0,
    "cost_per_million_small_input": 0.2,
    "cost_per_million_small_output": 0.8,
}
CONSONANTS, VOWELS = "bdfgklmnprstv", "aeiou"


def words_of(classes: int) -> list[list[str]]:
    """Five made-up words a class that no other class uses."""
    rng = random.Random(1)
    made = list(
        dict.fromkeys(
            "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(3)) for _ in range(5 * classes + 100)
        )
    )
    return [made[5 * i : 5 * i + 5] for i in range(classes)]


def _pretrained(folder: Path, groups: Sequence[Sequence[str]]) -> Path:
    """The model with words of one group alike, as a model that had read many texts would have them."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for group in groups:
            rows = tokenizer.convert_tokens_to_ids(list(group))
            table[rows] = 0.3 * table[rows] + 5 * table[rows].mean(dim=0)
    model.save_pretrained(folder)
    return folder


class Case:
    """A folder of texts whose class a keyword tells, a server that knows the keywords, and a config."""

    def __init__(self, folder: Path, classes: Sequence[str], counts: Sequence[int]) -> None:
        rng = random.Random(0)
        self.folder, self.classes, words = folder, list(classes), words_of(len(classes))
        self.truth: dict[str, str] = {}
        for name, count, own in zip(classes, counts, words, strict=True):
            for _ in range(count):
                chosen = [*rng.sample(FILLER, 5), *rng.sample(own, 4)]
                rng.shuffle(chosen)
                self.truth[" ".join(chosen)] = name
        texts = list(self.truth)
        rng.shuffle(texts)
        (folder / "texts").mkdir(parents=True)
        with (folder / "texts" / "rows.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"text": text, "number": number}) + "\n")
        self.base_model = _pretrained(tiny_bert(folder / "base", texts), words)
        by_word = {word: name for name, own in zip(classes, words, strict=True) for word in own}
        self.answer = keyword_labeller(by_word, rules="1. Go by the words.", default=classes[0])
        self.output = folder / "out"

    def sections(self, url: str, **changes: dict[str, Any]) -> dict[str, Any]:
        llm = {"base_url": url, "api_key": "${NBHELPERS_TEST_KEY}", "mode": "api"}
        sections: dict[str, dict[str, Any]] = {
            "api": {
                f"{size}_{key}": value for size in ("large", "small") for key, value in {**llm, "model": size}.items()
            },
            "classification": {"classes": self.classes, "desc": "Sort by the words."},
            "path": {"input_dir": str(self.folder / "texts"), "output_dir": str(self.output)},
            "system": {"required_accuracy": 0.9, "concurrency_limit": 8},
            "labeling": {"compare": 0},
            "training": {
                "model_path": str(self.base_model),
                "max_iters": 2,
                "train_set_size": 60,
                "train_set_increment": 30,
                "test_set_size": 50,
            },
        }
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        return sections

    def write(self, url: str, **changes: dict[str, Any]) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.sections(url, **changes), allow_unicode=True), "utf-8")
        return path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report.json").read_text("utf-8"))

    def final(self) -> Path:
        folders = (self.output / "classifiers").glob("classifier_*")
        return max(folders, key=lambda folder: int(folder.name.rpartition("_")[2]))
