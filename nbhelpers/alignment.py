"""The pool's texts, without any label -> an encoder whose head reads what the mean of all its tokens says.

The head of a saved classifier reads the first token, through a pooling layer that is often untrained; but what an
encoder knows of a text is rather in the mean over its tokens: sentence encoders are trained so. A short training on
unlabelled texts moves it over, once for all iterations; few labels then teach more (tests/benchmarks/few_labels.py).
The pooling layer starts as the identity; it is what it gives before its activation that is trained. What is made is
kept in the run folder; it is a cache, safe to delete.

Source: the mean as the teacher, Reimers and Gurevych 2019 (arXiv:1908.10084); that the head's input should fit the task
before the labels do, Cluster & Tune, Shnarch et al. 2022 (doi:10.18653/v1/2022.acl-long.526).
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers import encoder
from nbhelpers.chunking import chunk_id
from nbhelpers.errors import ClassifierError, ModelNotFoundError
from nbhelpers.features import features, fingerprint
from nbhelpers.models import find_model
from nbhelpers.progress import counter, progress_bar
from nbhelpers.run_folder import RunFolder, replacing_folder, write_text
from nbhelpers.training_loop import freeze_large_table, minimise, rate_by_width, train_batches

if TYPE_CHECKING:
    import torch

TEXTS, STEPS, PASSES = 2000, 125, 8  # at most
BATCH = 16
MAX_TOKENS = 128  # of a text: what the mean is does not change with its length
RECIPE = 1  # raise it when the same texts would give another encoder than before
FOLDER, MADE_FROM = "encoder", "alignment.json"


def aligned_encoder(texts: Sequence[str], *, base_model: Path | str, seed: int, run: RunFolder) -> Path:
    """The folder of the encoder to fine-tune; it is made where it is not there yet.

    Args:
        texts: the pool, or a part of it; TEXTS of them are read.
        base_model: a transformers encoder, as `find_model` finds it.
        seed: of the choice of texts and their order.
        run: where it is kept, and where the features of the texts are.
    Raises:
        ModelNotFoundError: the encoder is nowhere.
        ClassifierError: it is no text encoder, or the folder cannot be written.
    """
    rng = random.Random(seed)
    chosen = rng.sample(list(texts), min(TEXTS, len(texts)))
    model, folder = find_model(base_model), run.root / FOLDER
    made_from = hashlib.sha256(
        repr((fingerprint(model), RECIPE, seed, chosen)).encode("utf-8", "surrogatepass")
    ).hexdigest()
    if not _is_made(run, made_from):
        _make(folder, chosen, model, rng, run, made_from)
    return folder


def how_made(run: RunFolder) -> dict[str, Any]:
    """Of the run's encoder: made_from (a hash of all that decides it), seconds and read (chunk ids); {} without one."""
    try:
        made: dict[str, Any] = json.loads((run.root / FOLDER / MADE_FROM).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return made


def _is_made(run: RunFolder, made_from: str) -> bool:
    try:
        find_model(run.root / FOLDER)
    except ModelNotFoundError:  # not there yet, or a part of it is gone
        return False
    return how_made(run).get("made_from") == made_from


def _make(folder: Path, texts: list[str], base_model: Path, rng: random.Random, run: RunFolder, made_from: str) -> None:
    import torch

    started = time.perf_counter()
    means = torch.tensor(features(texts, base_model=base_model, run=run), device=encoder.best_device())
    with encoder.quiet(), progress_bar(None, desc="aligning the encoder", unit="step") as bar:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of the last layer, which is not used
            model, tokenizer = encoder.load_to_train("AutoModelForSequenceClassification", base_model)
        freeze_large_table(model)
        pooling = encoder.pooling_layer(model)
        if pooling is not None:
            layer = model.get_submodule(pooling)
            torch.nn.init.eye_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
        tokens = encoder.encode(tokenizer, texts, min(MAX_TOKENS, encoder.reads_at_most(model.config, tokenizer)))

        def loss(model: Any, rows: list[int]) -> torch.Tensor:
            said: list[torch.Tensor] = []
            if pooling is None:
                hook = encoder.output_layer(model).register_forward_pre_hook(lambda _, inputs: said.append(inputs[0]))
            else:
                hook = model.get_submodule(pooling).register_forward_hook(lambda *call: said.append(call[-1]))
            model(**encoder.padded(tokenizer, [tokens[row] for row in rows], model.device))
            hook.remove()
            return (1 - torch.nn.functional.cosine_similarity(said[0].float(), means[rows])).mean()

        with encoder.first_token_alone(model):
            minimise(
                model,
                loss,
                train_batches([len(ids) for ids in tokens], BATCH, rng),
                parameters=[{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate_by_width(model)}],
                steps=min(STEPS, -(-PASSES * len(texts) // BATCH)),
                progress=counter(bar),
            )
        try:
            with replacing_folder(folder) as part:
                model.save_pretrained(part)
                tokenizer.save_pretrained(part)
                seconds, read = round(time.perf_counter() - started, 2), [chunk_id(text) for text in texts]
                made = {"made_from": made_from, "seconds": seconds, "read": read}
                write_text(part / MADE_FROM, json.dumps(made))
        except OSError as error:
            raise ClassifierError(
                f"the encoder could not be saved in {folder} ({error}): free or change it."
            ) from error
