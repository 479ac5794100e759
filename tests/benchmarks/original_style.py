"""A control for few_labels.py: fine-tuning as Augmentoolkit's classifier bootstrapper does it.

Source: its `train_classifier`: three epochs at 5e-5, 16 texts a batch, 100 warm-up steps, weight decay 0.01, float32.
It pads every text to the model's limit; here a batch is padded to its longest text, which only takes less time.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from nbhelpers import encoder


def predict(
    texts: Sequence[str],
    labels: Sequence[str],
    unseen: Sequence[str],
    *,
    classes: Sequence[str],
    base_model: Path,
    seed: int,
) -> np.ndarray[Any, Any]:
    """The probabilities of unseen texts, a row each and a column a class."""
    with encoder.quiet(), tempfile.TemporaryDirectory() as output:
        transformers.set_seed(seed)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_model)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=len(classes))
        places = [classes.index(label) for label in labels]
        arguments = transformers.TrainingArguments(
            output,
            num_train_epochs=3,
            learning_rate=5e-5,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            warmup_steps=100,
            weight_decay=0.01,
            seed=seed,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model,
            arguments,
            train_dataset=_rows(tokenizer, texts, places),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        logits = trainer.predict(_rows(tokenizer, unseen, [0] * len(unseen))).predictions
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def _rows(tokenizer: Any, texts: Sequence[str], places: Sequence[int]) -> list[dict[str, Any]]:
    tokens = tokenizer(list(texts), truncation=True, max_length=512)
    return [{name: tokens[name][i] for name in tokens} | {"labels": place} for i, place in enumerate(places)]
