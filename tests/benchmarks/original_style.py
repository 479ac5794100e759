"""A control for few_labels.py: fine-tuning as Augmentoolkit's classifier bootstrapper does it.

Source: its `train_classifier`: three epochs at 5e-5, 16 texts a batch, 100 warm-up steps, weight decay 0.01, float32.
It pads every text to the model's limit; here a batch is padded to its longest text, which only takes less time, and
unseen texts are read as ours are, which gives the same classes.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from plain_trainer import rows_of, trainer

from nbhelpers import encoder
from nbhelpers.classifier import Classifier


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
        rows = rows_of(tokenizer, texts, [classes.index(label) for label in labels])
        made = trainer(
            model,
            tokenizer,
            rows,
            output,
            num_train_epochs=3,
            learning_rate=5e-5,
            warmup_steps=100,
            weight_decay=0.01,
            seed=seed,
        )
        made.train()
    return Classifier(list(classes), model.eval(), tokenizer).predict_proba(unseen)
