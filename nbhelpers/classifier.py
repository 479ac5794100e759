"""A transformers sequence classifier: predict, save and load, on the CPU or on a GPU if there is one.

What is saved is a plain `AutoModelForSequenceClassification` folder with its tokenizer and the class names in
`id2label`: nothing of this package is needed to use it. How one is trained is up to training; how good it is and when
to stop are other modules' questions. torch and transformers are imported when they are used, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers import encoder
from nbhelpers.errors import ClassifierError
from nbhelpers.run_folder import replacing_folder

Progress = Callable[[int, int], None]  # called with (done, total): steps in `fit`, texts in `predict_proba`

EXACT_TEXTS = 1000  # up to so many are predicted in float32, for the same figures as plain transformers gives
UNSURE = 0.1  # margin between the two likeliest classes; bfloat16 moved a probability by 0.02 at most, measured


@dataclass
class Classifier:
    """A trained classifier: make one with `training.fit` or `Classifier.load`.

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
        low_precision = len(texts) > EXACT_TEXTS and encoder.autocast_pays(self.model)
        proba = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        done = 0
        with encoder.quiet():
            for start in range(0, len(texts), encoder.TEXTS_PER_BLOCK):  # bounds the memory that token ids take
                tokens = encoder.encode(self.tokenizer, texts[start : start + encoder.TEXTS_PER_BLOCK], self._limit)
                block = proba[start : start + len(tokens)]  # a view: what is written here is written to proba
                for rows in encoder.token_batches([len(ids) for ids in tokens]):
                    block[rows] = self._predict_batch([tokens[row] for row in rows], low_precision)
                    if low_precision:
                        two_best = np.sort(block[rows], axis=1)[:, -2:]
                        close = np.array(rows)[two_best[:, 1] - two_best[:, 0] < UNSURE]
                        if len(close):
                            block[close] = self._predict_batch([tokens[row] for row in close], False)
                    done += len(rows)
                    if progress is not None:
                        progress(done, len(texts))
        return proba

    def _predict_batch(self, tokens: list[list[int]], low_precision: bool) -> np.ndarray[Any, Any]:
        """Class probabilities of so few texts, as token ids, that they are computed at once; in bfloat16 or float32."""
        import torch

        with torch.inference_mode(), encoder.autocast(self.model.device, low_precision):
            logits = self.model(**encoder.padded(self.tokenizer, tokens, self.model.device)).logits
        proba: np.ndarray[Any, Any] = logits.float().softmax(-1).cpu().numpy()
        return proba

    def rescale(self, *, temperature: float = 1.0, log_prior: Sequence[float] | None = None) -> None:
        """Changes what the probabilities are, for good: in the last layer, so that plain transformers gives them, too.

        Args:
            temperature: divides the logits; above 1 the probabilities become less sure, the order stays.
            log_prior: then added to each class's logit, in the order of `classes`; None: nothing.
        """
        import torch

        layer = encoder.output_layer(self.model)
        with torch.no_grad():
            layer.weight.div_(temperature)
            layer.bias.div_(temperature)
            if log_prior is not None:
                layer.bias.add_(torch.tensor(log_prior, dtype=layer.bias.dtype, device=layer.bias.device))

    def save(self, folder: Path | str) -> None:
        """Write a plain transformers folder, in place of one that is there; a killed run never leaves half a folder.

        Raises:
            ClassifierError: it cannot be written.
        """
        folder = Path(folder)
        try:
            with replacing_folder(folder) as part, encoder.quiet():
                self.model.save_pretrained(part)
                self.tokenizer.save_pretrained(part)
                (part / "training.json").write_text(json.dumps(self.training, indent=1, ensure_ascii=False), "utf-8")
        except OSError as error:
            raise ClassifierError(
                f"the classifier could not be saved in {folder} ({error}): free or change it."
            ) from error

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
