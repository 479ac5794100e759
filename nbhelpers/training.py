"""Labelled texts -> a classifier: fine-tuning for few labels on a CPU, or on a GPU if there is one.

It trains what is saved: the encoder, but for a large table of words, and the head that plain transformers will read.
Which texts are labelled, and how good the result is, are other modules' questions. torch is imported when it is used.

Source: enough steps for few labels, Mosbach et al. 2021 (arXiv:2006.04884) and Zhang et al. 2021 (arXiv:2006.05987);
beside the cross-entropy a supervised contrastive loss on what the last layer reads, Gunel et al. 2021
(arXiv:2011.01403) after Khosla et al. 2020 (arXiv:2004.11362); rare classes by logit adjustment, Menon et al. 2021
(arXiv:2007.07314). What was tried and lost stands in tests/benchmarks/few_labels.py and balance.py.
"""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nbhelpers import encoder
from nbhelpers.classifier import Classifier, Progress
from nbhelpers.errors import ClassifierError, ConfigError
from nbhelpers.training_loop import freeze_large_table, minimise, rate_by_width, train_batches

if TYPE_CHECKING:
    import torch

RECIPE = 12  # raise it when equal settings would train, or calibrate, another classifier than before
RAREST_WEIGHT = 5.0  # the most that a text of a rare class counts, in texts of the most frequent one
IMBALANCED = 8.0  # `balance: auto` weights classes from this ratio of the most to the least frequent
CLOSENESS = 0.1  # the contrastive loss's temperature


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained. Equal settings, texts and threads give the same classifier on the same machine.

    Training takes as many steps as `epochs` passes over the texts would, but not fewer than `min_steps` nor more than
    `max_steps`.
    """

    min_steps: int = 150
    epochs: float = 3.0
    max_steps: int = 3000
    batch_size: int = 16
    learning_rate: float | None = None  # None: by width, 1e-4 at 384 (MiniLM) and 5e-5 at 768 (DistilBERT)
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    contrast: float = 0.5  # weight of the contrastive loss
    max_tokens: int = encoder.LONGEST  # of a text in prediction
    train_tokens: int = 256  # of a text in training: its end costs more time than it teaches
    batch_tokens: int = 2048  # long texts come in smaller batches, of 4 texts at least
    seed: int = 0
    balance: str = "auto"

    def steps(self, texts: int, *, batch_size: int) -> int:
        """Optimizer steps for a train set of this many texts. Example: 40 in batches of 16 -> 150, 1600 -> 300."""
        passes = self.epochs * -(-texts // batch_size)
        return min(max(self.min_steps, round(passes)), self.max_steps)

    def fingerprint(self) -> dict[str, Any]:
        """What decides how a classifier is trained, JSON-safe; equals its `training["settings"]`."""
        return {**asdict(self), "recipe": RECIPE}


def fit(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    classes: Sequence[str],
    base_model: Path | str,
    settings: TrainingSettings,
    targets: np.ndarray[Any, Any] | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Fine-tune an encoder on labelled texts.

    Args:
        texts: the train set; only the first `settings.train_tokens` tokens of each are read.
        labels: the class name of each text.
        classes: every class, in order; some may have no text.
        base_model: the folder of a transformers encoder, with its tokenizer.
        settings: how; the seed is part of it. Random states outside are left as they were.
        targets: (texts, classes), how likely each class is, where a label is not wholly believed (doubt.soft_targets);
            a row sums to 1. None: the labels are.
        progress: called with (steps done, steps in all) after every step.
    Returns:
        A classifier. Its probabilities assume the class shares of the labels, and on top of them the weights of
        `describe_balance`.
    Raises:
        ClassifierError: no texts, a label that is no class, fewer than two classes, or a model that cannot be loaded.
        ConfigError: an unknown `balance`.
    """
    import torch

    _check(texts, labels, classes)
    started = time.perf_counter()
    if targets is None:
        targets = np.eye(len(classes))[[list(classes).index(label) for label in labels]]
    with encoder.quiet(), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model, tokenizer = _new_model(base_model, classes)
        tokenizer.model_max_length = min(settings.max_tokens, encoder.reads_at_most(model.config, tokenizer))
        tokens = encoder.encode(tokenizer, texts, min(settings.train_tokens, tokenizer.model_max_length))
        classifier = Classifier(list(classes), model, tokenizer)
        how = _learn(classifier, tokens, targets, settings, progress)
        counts = {name: list(labels).count(name) for name in classes}
        weights = describe_balance(counts, settings.balance)["weight"]
        # In the logits, not in the loss: there, weights do little once the train set is learned by heart.
        classifier.rescale(log_prior=np.log(weights.fillna(weights.min())).tolist())
        model.requires_grad_(True)
    classifier.training = {
        "settings": settings.fingerprint(),
        "texts": len(texts),
        **how,
        "seconds": round(time.perf_counter() - started, 2),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": _version()},
    }
    return classifier


def describe_balance(counts: Mapping[str, int], balance: str) -> pd.DataFrame:
    """What a choice of `balance` does to a train set: how much more likely `fit` makes each class.

    To multiply a class's probability by its weight decides as if each of its texts were there so many times.

    Args:
        counts: texts of each class.
        balance: "none" | "weights" (inverse to a class's texts, at most 5 times the most frequent class's weight) |
            "auto" ("weights" if the most frequent class has at least 8 times the texts of the rarest one present).
    Returns:
        Columns class, texts, share, weight, in the order of `counts`. The mean weight of a text is 1; a class without
        texts has none (NaN). Example: 90 and 10 texts with "weights" -> 0.71 and 3.57.
    Raises:
        ConfigError: an unknown `balance`.
    """
    if balance not in ("auto", "none", "weights"):
        raise ConfigError(f"training.balance is {balance!r}: choose 'auto', 'none' or 'weights'.")
    texts = np.array(list(counts.values()), dtype=float)
    total, present = texts.sum(), texts > 0
    weights = np.where(present, 1.0, np.nan)
    if present.any():
        most, least = texts.max(), texts[present].min()
        if balance == "weights" or (balance == "auto" and most >= IMBALANCED * least):
            raw = np.minimum(most / np.where(present, texts, 1.0), RAREST_WEIGHT)
            weights *= raw * total / (raw * texts).sum()
    shares = texts / total if total else texts
    return pd.DataFrame({"class": list(counts), "texts": texts.astype(int), "share": shares, "weight": weights})


def _learn(
    classifier: Classifier,
    tokens: list[list[int]],
    targets: np.ndarray[Any, Any],
    settings: TrainingSettings,
    progress: Progress | None,
) -> dict[str, Any]:
    """Trains a new classifier, in place, on texts as token ids and how probable each class is for each.

    Returns:
        steps and dtype, as they are kept in `Classifier.training`.
    """
    import torch

    model, tokenizer = classifier.model, classifier.tokenizer
    goals = torch.tensor(targets, dtype=torch.float32, device=model.device)

    def loss(model: Any, rows: list[int]) -> torch.Tensor:
        read: list[torch.Tensor] = []  # by the last layer
        hook = encoder.output_layer(model).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        logits = model(**encoder.padded(tokenizer, [tokens[row] for row in rows], model.device)).logits
        hook.remove()
        contrast = _contrastive_loss(read[0].float(), goals[rows].argmax(dim=1))
        return torch.nn.functional.cross_entropy(logits.float(), goals[rows]) + settings.contrast * contrast

    freeze_large_table(model)
    batch_size = _batch_size(tokens, settings)
    steps = settings.steps(len(tokens), batch_size=batch_size)
    batches = train_batches([len(ids) for ids in tokens], batch_size, random.Random(settings.seed))
    groups = _parameter_groups(model, settings)
    with encoder.first_token_alone(model):
        dtype = minimise(model, loss, batches, parameters=groups, steps=steps, progress=progress)
    return {"steps": steps, "dtype": dtype}


def _batch_size(tokens: list[list[int]], settings: TrainingSettings) -> int:
    long = max(1, int(np.quantile([len(ids) for ids in tokens], 0.9)))
    return min(settings.batch_size, max(4, settings.batch_tokens // long))


def _check(texts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> None:
    if len(texts) == 0:
        raise ClassifierError("there are no labelled texts to train on: label some first.")
    if len(texts) != len(labels):
        raise ClassifierError(f"{len(texts)} texts and {len(labels)} labels: give one label a text.")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ClassifierError(f"the classes are {list(classes)}: give at least two, each once.")
    unknown = set(labels) - set(classes)
    if unknown:
        raise ClassifierError(f"labels {sorted(map(str, unknown))} are not among the classes {list(classes)}.")


def _new_model(base_model: Path | str, classes: Sequence[str]) -> tuple[Any, Any]:
    config = encoder.load(
        "AutoConfig",
        base_model,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
        problem_type="single_label_classification",
    )
    # It may have had another head.
    return encoder.load_to_train(
        "AutoModelForSequenceClassification", base_model, config=config, ignore_mismatched_sizes=True
    )


def _contrastive_loss(read: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far texts of one label are from one another, and how near to others, in a batch; 0 where no two are alike."""
    import torch

    unit = torch.nn.functional.normalize(read, dim=1)
    near = unit @ unit.T / CLOSENESS
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logs = near - near.masked_fill(itself, torch.finfo(near.dtype).min).logsumexp(dim=1, keepdim=True)
    alike = (labels[:, None] == labels[None, :]) & ~itself
    partners = alike.sum(dim=1)
    losses = -(logs * alike).sum(dim=1) / partners.clamp(min=1)
    return losses.sum() / (partners > 0).sum().clamp(min=1)


def _parameter_groups(model: Any, settings: TrainingSettings) -> list[dict[str, Any]]:
    """The new head learns faster than the encoder; biases and norms do not decay.

    BERT's pooler counts as encoder: at the head's rate, as it is or initialised anew, it lost 5 to 8 points (trec6, 40
    labels, one seed); as the identity it gained nothing over three runs.
    """
    body_rate = settings.learning_rate
    if body_rate is None:
        body_rate = rate_by_width(model)
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = not name.startswith(f"{model.base_model_prefix}.")
        groups.setdefault((in_head, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.head_learning_rate if in_head else body_rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (in_head, is_matrix), parameters in groups.items()
    ]


def _version() -> str:
    import transformers

    return str(transformers.__version__)
