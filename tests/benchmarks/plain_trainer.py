"""transformers' Trainer as the controls use it: on the CPU, quiet, nothing saved."""

from collections.abc import Sequence
from typing import Any

import transformers

LONGEST = 512  # tokens of a text


def trainer(model: Any, tokenizer: Any, rows: list[dict[str, Any]], output: str, **options: Any) -> Any:
    """A Trainer on these rows; `options` are those of TrainingArguments, 16 texts a batch unless they say otherwise.

    Args:
        output: a folder, which Trainer asks for.
    """
    quiet = {"use_cpu": True, "report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(output, **{"per_device_train_batch_size": 16, **quiet, **options})
    collate = transformers.DataCollatorWithPadding(tokenizer)
    made = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    made.remove_callback(transformers.PrinterCallback)  # it prints even where nothing is to be logged
    return made


def rows_of(
    tokenizer: Any, texts: Sequence[str], labels: Sequence[int], *, longest: int = LONGEST, pad: bool = False
) -> list[dict[str, Any]]:
    """What it trains on and predicts: each text's first tokens, padded to `longest` or not, and its class's place."""
    tokens = tokenizer(list(texts), truncation=True, max_length=longest, padding="max_length" if pad else False)
    return [{name: tokens[name][i] for name in tokens} | {"labels": label} for i, label in enumerate(labels)]
