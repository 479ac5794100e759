"""Fit, predict, save and load a transformers sequence classifier, on the CPU or on a GPU if there is one.

What is saved is a plain `AutoModelForSequenceClassification` folder with its tokenizer and the class names in
`id2label`: nothing of this package is needed to use it. Which texts to label, how good the result is and when to stop
are other modules' questions. torch and transformers are imported when they are used, not before.

Source: enough steps for few labels, warm-up as a share of them, AdamW with bias correction, after Mosbach et al. 2021
(arXiv:2006.04884) and Zhang et al. 2021 (arXiv:2006.05987); beside the cross-entropy a supervised contrastive loss on
what the last layer reads, after Gunel et al. 2021 (arXiv:2011.01403) and Khosla et al. 2020 (arXiv:2004.11362). The loop
is our own: faster than transformers' Trainer on a CPU, and shorter than what that needs to be quiet, take soft targets
and train the head faster than the encoder. What was tried and lost stands in tests/benchmarks/few_labels.py.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nbhelpers import encoder
from nbhelpers.errors import ClassifierError, ConfigError

if TYPE_CHECKING:
    pass

Progress = Callable[[int, int], None]  # called with (done, total): steps in `fit`, texts in `predict_proba`

RECIPE = 3  # raise it when equal settings would train a different classifier than before
EXACT_TEXTS = 1000  # up to so many are predicted in float32, for the same figures as plain transformers gives
UNSURE = 0.1  # margin between the two likeliest classes; bfloat16 moved a probability by 0.02 at most, measured
RAREST_WEIGHT = 5.0  # the most that a text of a rare class counts, in texts of the most frequent one
IMBALANCED = 3  # `balance: auto` weights classes from this ratio of the most to the least frequent


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained. Equal settings, texts and threads give the same classifier on the same machine.

    Training takes `epochs` passes over the texts, but not fewer than `min_steps` steps nor more than `max_steps`.
    """

    min_steps: int = 150
    epochs: float = 3.0
    max_steps: int = 3000
    batch_size: int = 16
    learning_rate: float | None = None  # None: by width, 1e-4 at 384 (MiniLM) and 5e-5 at 768 (DistilBERT)
    head_learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = encoder.LONGEST  # of a text in prediction
    train_tokens: int = 256  # of a text in training: its end costs more time than it teaches
    batch_tokens: int = 2048  # long texts come in smaller batches, of 4 texts at least
    label_smoothing: float = 0.0
    seed: int = 0
    balance: str = "auto"

    def steps(self, texts: int) -> int:
        """Optimizer steps for a train set of this many texts. Example: 40 -> 150, 1600 -> 300."""
        return min(max(self.min_steps, round(self.epochs * -(-texts // self.batch_size))), self.max_steps)

    def fingerprint(self) -> dict[str, Any]:
        """What decides how a classifier is trained, JSON-safe; equals its `training["settings"]`."""
        return {**asdict(self), "recipe": RECIPE}


@dataclass
class Classifier:
    """A trained classifier: make one with `fit` or `Classifier.load`.

    training holds how it was made (settings, seconds, steps, dtype, texts, versions, and what a caller adds); it is
    saved as training.json, which plain transformers ignores, and is empty for a folder that has none.
    """

    classes: list[str]
    model: Any
    tokenizer: Any
    training: dict[str, Any] = field(default_factory=dict)

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Class probabilities. A text over the token limit is cut at its end, as `truncation=True` does.

        Up to EXACT_TEXTS texts are computed in float32. More are computed in bfloat16 where this machine is faster so,
        and again in float32 where the two likeliest classes are close, so that the likeliest class stays the same.

        Args:
            texts: any number of texts; empty ones get probabilities, too.
            progress: called with (texts done, texts in all) after every batch.
        Returns:
            One row a text, one column a class in the order of `classes`; a row sums to 1.
        """
        low_precision = len(texts) > EXACT_TEXTS and encoder.bfloat16_pays(self.model.device)
        proba = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        done = 0
        with encoder.quiet():
            for start in range(0, len(texts), encoder.TEXTS_PER_BLOCK):  # bounds the memory that token ids take
                tokens = encoder.encode(self.tokenizer, texts[start : start + encoder.TEXTS_PER_BLOCK], self._limit)
                block = proba[start : start + len(tokens)]  # a view: what is written here is written to proba
                for rows in encoder.token_batches([len(ids) for ids in tokens]):
                    block[rows] = self._softmax([tokens[row] for row in rows], low_precision)
                    if low_precision:
                        two_best = np.sort(block[rows], axis=1)[:, -2:]
                        close = np.array(rows)[two_best[:, 1] - two_best[:, 0] < UNSURE]
                        if len(close):
                            block[close] = self._softmax([tokens[row] for row in close], False)
                    done += len(rows)
                    if progress is not None:
                        progress(done, len(texts))
        return proba

    def save(self, folder: Path | str) -> None:
        """Write a plain transformers folder, in place of one that is there; a killed run never leaves half a folder.

        Raises:
            ClassifierError: it cannot be written.
        """
        folder = Path(folder)
        part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
        try:
            for left_over in (part, old):
                shutil.rmtree(left_over, ignore_errors=True)
            part.mkdir(parents=True)
            with encoder.quiet():
                self.model.save_pretrained(part)
                self.tokenizer.save_pretrained(part)
            (part / "training.json").write_text(json.dumps(self.training, indent=1, ensure_ascii=False), "utf-8")
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        except OSError as error:
            raise ClassifierError(
                f"the classifier could not be saved in {folder} ({error}): free or change it."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path | str) -> Classifier:
        """Load a folder that `save`, or transformers itself, has written.

        Raises:
            ClassifierError: not there, damaged, or an encoder without a trained head.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ClassifierError(f"there is no classifier in {folder}. Run 04_train first.")
        try:
            with encoder.quiet():
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    folder, dtype="float32", output_loading_info=True, local_files_only=True
                )
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            made = folder / "training.json"
            training = json.loads(made.read_text("utf-8")) if made.is_file() else {}
        except Exception as error:  # transformers, tokenizers and safetensors raise their own, and bare, exceptions
            raise ClassifierError(f"the classifier in {folder} is damaged ({error}). Run 04_train again.") from error
        if report["missing_keys"]:
            raise ClassifierError(f"{folder} has no trained head: give a folder that 04_train wrote.")
        classes = [model.config.id2label[i] for i in range(model.config.num_labels)]
        return cls(classes, model.to(encoder.best_device()).eval(), tokenizer, training)

    @property
    def _limit(self) -> int:
        return encoder.reads_at_most(self.model.config, self.tokenizer)

    def _softmax(self, tokens: list[list[int]], low_precision: bool) -> np.ndarray[Any, Any]:
        import torch

        with torch.inference_mode(), encoder.autocast(self.model.device, low_precision):
            logits = self.model(**encoder.padded(self.tokenizer, tokens, self.model.device)).logits
        proba: np.ndarray[Any, Any] = logits.float().softmax(-1).cpu().numpy()
        return proba


def fit(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    classes: Sequence[str],
    base_model: Path | str,
    settings: TrainingSettings,
    progress: Progress | None = None,
) -> Classifier:
    """Fine-tune an encoder on labelled texts.

    Args:
        texts: the train set; only the first `settings.train_tokens` tokens of each are read.
        labels: the class name of each text.
        classes: every class, in order; some may have no text.
        base_model: the folder of a transformers encoder, with its tokenizer.
        settings: how; the seed is part of it. Random states outside are left as they were.
        progress: called with (steps done, steps in all) after every step.
    Raises:
        ClassifierError: no texts, a label that is no class, fewer than two classes, or a model that cannot be loaded.
        ConfigError: an unknown `balance`.
    """
    import torch

    _check(texts, labels, classes)
    started = time.perf_counter()
    place = {name: i for i, name in enumerate(classes)}
    device = encoder.best_device()
    low_precision = encoder.bfloat16_pays(device)
    table = describe_balance({name: list(labels).count(name) for name in classes}, settings.balance)
    with encoder.quiet(), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model, tokenizer = _new_model(base_model, classes)
        tokenizer.model_max_length = min(settings.max_tokens, encoder.reads_at_most(model.config, tokenizer))
        model.to(device).train()
        tokens = encoder.encode(tokenizer, texts, min(settings.train_tokens, tokenizer.model_max_length))
        long = max(1, int(np.quantile([len(ids) for ids in tokens], 0.9)))
        size = min(settings.batch_size, max(4, settings.batch_tokens // long))
        steps = replace(settings, batch_size=size).steps(len(texts))
        targets = torch.tensor([place[label] for label in labels], device=device)
        weights = torch.tensor(table["weight"].fillna(0.0).to_numpy(), dtype=torch.float32, device=device)
        optimizer = torch.optim.AdamW(_parameter_groups(model, settings), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_down(steps, settings.warmup_ratio))
        batches = _train_batches([len(ids) for ids in tokens], size, random.Random(settings.seed))
        for step, rows in zip(range(1, steps + 1), batches, strict=False):
            with encoder.autocast(device, low_precision):
                logits = model(**encoder.padded(tokenizer, [tokens[row] for row in rows], device)).logits
            losses = torch.nn.functional.cross_entropy(
                logits.float(), targets[rows], reduction="none", label_smoothing=settings.label_smoothing
            )
            (losses * weights[targets[rows]]).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if progress is not None:
                progress(step, steps)
    training = {
        "settings": settings.fingerprint(),
        "texts": len(texts),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 2),
        "dtype": "bfloat16" if low_precision else "float32",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": _version()},
    }
    return Classifier(list(classes), model.eval(), tokenizer, training)


def describe_balance(counts: Mapping[str, int], balance: str) -> pd.DataFrame:
    """What a choice of `balance` does to a train set; `fit` trains with these weights.

    Args:
        counts: texts of each class.
        balance: "none" | "weights" (inverse to a class's texts, at most 5 times the most frequent class's weight) |
            "auto" ("weights" if the most frequent class has at least 3 times the texts of the rarest one present).
    Returns:
        Columns class, texts, share, weight, in the order of `counts`. The mean weight of a text is 1; a class without
        texts has none (NaN). Example: 90 and 10 texts with "weights" -> 0.64 and 3.21.
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
    options = {"config": config, "dtype": "float32", "ignore_mismatched_sizes": True}  # it may have had another head
    if encoder.best_device().type == "cpu":
        options["attn_implementation"] = (
            "eager"  # on the CPU its backward pass is a quarter to a third faster than sdpa's
        )
    return encoder.load("AutoModelForSequenceClassification", base_model, **options), encoder.load(
        "AutoTokenizer", base_model
    )


def _parameter_groups(model: Any, settings: TrainingSettings) -> list[dict[str, Any]]:
    """The new head learns faster than the encoder; biases and norms do not decay.

    BERT's pooler counts as encoder: at the head's rate, as it is or initialised anew, it lost 5 to 8 points (trec6, 40
    labels, one seed); as the identity it gained nothing over three runs.
    """
    body_rate = settings.learning_rate
    if body_rate is None:
        body_rate = 0.0384 / getattr(model.config, "hidden_size", 768)
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
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


def _warm_up_then_down(steps: int, warmup_ratio: float) -> Callable[[int], float]:
    warm_up = max(1, round(warmup_ratio * steps))
    return lambda step: min((step + 1) / warm_up, max(0, steps - step) / max(1, steps - warm_up))


def _train_batches(lengths: Sequence[int], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Batches of texts of similar length, in a new random make-up and order in every epoch, without end."""
    group = size * min(50, max(1, len(lengths) // (4 * size)))  # few texts: short groups, or batches would never change
    while True:
        order = rng.sample(range(len(lengths)), len(lengths))
        batches = []
        for start in range(0, len(order), group):
            rows = sorted(order[start : start + group], key=lengths.__getitem__)
            batches += [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(batches)
        yield from batches


def _version() -> str:
    import transformers

    return str(transformers.__version__)
