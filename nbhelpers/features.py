"""Texts -> features of a frozen encoder: the mean of its last layer over a text's tokens, of length 1.

They say which texts are alike before, and however, a classifier is trained: `doubt` asks them whether a label fits its
text. They are computed once a text and kept in one file of the run folder; that file is a cache, safe to delete. The
encoder is never trained here, and no text is compared with another.

Source: mean pooling, Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbhelpers import encoder
from nbhelpers.errors import RunFolderError
from nbhelpers.models import find_model
from nbhelpers.progress import progress_bar
from nbhelpers.run_folder import RunFolder, write_table
from nbhelpers.training import TrainingSettings

CACHE = "features.parquet"
MAX_TOKENS = TrainingSettings.train_tokens  # of a text, as in training

Features = np.ndarray[Any, np.dtype[np.float32]]


def features(texts: Sequence[str], *, base_model: Path | str, run: RunFolder | None = None) -> Features:
    """One row a text, of length 1, so that the product of two rows is their cosine.

    Args:
        texts: any number of texts, the same one as often as you like; the first MAX_TOKENS tokens of each are read.
        base_model: a transformers encoder, as `find_model` finds it.
        run: where they are kept; only texts that it does not hold are computed. None: nothing is kept.
    Returns:
        (texts, width of the encoder), float32; (0, 0) without texts.
    Raises:
        ModelNotFoundError: it is nowhere.
        ClassifierError: it is no text encoder.
        RunFolderError: the cache cannot be written.
    """
    if len(texts) == 0:
        return np.empty((0, 0), dtype=np.float32)
    model = find_model(base_model)
    made_by = fingerprint(model)
    keys = [hashlib.sha256(f"{made_by}\n{text}".encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    known = {} if run is None else _read(run)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        known |= zip(missing, _compute(list(missing.values()), model), strict=True)
        if run is not None:
            rows = pd.DataFrame({"key": list(known), "features": [row.tobytes() for row in known.values()]})
            write_table(run.root / CACHE, rows)
    return np.stack([known[key] for key in keys])


def fingerprint(folder: Path) -> str:
    """Changes with the model's files; where they lie does not matter."""
    files = sorted(file for file in (folder.iterdir() if folder.is_dir() else [folder]) if file.is_file())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((MAX_TOKENS, stats)).encode()).hexdigest()


def _read(run: RunFolder) -> dict[str, Features]:
    try:
        table = run.read_table(run.root / CACHE, made_by="04_train")
        return {key: np.frombuffer(row, np.float32) for key, row in zip(table["key"], table["features"], strict=True)}
    except (RunFolderError, KeyError, ValueError, TypeError):  # not there yet, or damaged: computed again
        return {}


def _compute(texts: list[str], base_model: Path) -> Features:
    import torch

    with encoder.quiet(), progress_bar(len(texts), desc="features of the texts", unit="text") as bar:
        device = encoder.best_device()
        tokenizer = encoder.load_tokenizer(base_model)
        model = encoder.load("AutoModel", base_model, dtype="float32").to(device).eval()
        limit = min(MAX_TOKENS, encoder.reads_at_most(model.config, tokenizer))
        low_precision = encoder.autocast_pays(model)
        blocks = []
        for start in range(0, len(texts), encoder.TEXTS_PER_BLOCK):
            tokens = encoder.encode(tokenizer, texts[start : start + encoder.TEXTS_PER_BLOCK], limit)
            block = np.empty((len(tokens), model.config.hidden_size), dtype=np.float32)
            for rows in encoder.token_batches([len(ids) for ids in tokens]):
                batch = encoder.padded(tokenizer, [tokens[row] for row in rows], device)
                with torch.inference_mode(), encoder.autocast(device, low_precision):
                    states = model(**batch).last_hidden_state.float()
                mask = batch["attention_mask"].unsqueeze(-1).float()
                block[rows] = torch.nn.functional.normalize((states * mask).sum(1), dim=1).cpu().numpy()
                bar.update(len(rows))
            blocks.append(block)
    return np.concatenate(blocks)
