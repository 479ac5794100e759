"""A control for few_labels.py: pairs of texts pull an encoder's features together or apart, then a logistic regression.

Source: SetFit, Tunstall et al. 2022 (arXiv:2209.11055): 20 pairs a text, half of one class, one epoch, the cosine of
each pair against 1 or 0; AdamW at 2e-5, 32 pairs a batch, float32, 64 tokens a text, then C = 10, as heartcut 0.2.1
has it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from nbhelpers import encoder
from nbhelpers.features import features

PAIRS, BATCH, TOKENS, RATE = 20, 32, 64, 2e-5


def predict(
    texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str], *, base_model: Path, seed: int
) -> tuple[np.ndarray, list[str]]:
    """The probabilities of unseen texts, a row each and a column a class that has a label; and these classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, tokenizer = encoder.load("AutoModel", base_model), encoder.load_tokenizer(base_model)
        tokens = encoder.encode(tokenizer, texts, TOKENS)
        pairs = _pairs(np.array(labels), PAIRS * len(texts), np.random.default_rng(seed))
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        model.train()
        for start in range(0, len(pairs), BATCH):
            left, right, alike = zip(*pairs[start : start + BATCH], strict=True)
            cosine = torch.nn.functional.cosine_similarity(
                *(_means(model, tokenizer, tokens, x) for x in (left, right))
            )
            torch.nn.functional.mse_loss(cosine, torch.tensor(alike, dtype=torch.float32)).backward()
            optimizer.step()
            optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        trained, asked = (features(part, base_model=folder) for part in (texts, unseen))
    head = LogisticRegression(C=10.0, max_iter=2000).fit(trained, labels)
    return head.predict_proba(asked), head.classes_.tolist()


def _pairs(labels: np.ndarray, n: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """Two texts and whether they are of one class, for every other pair so."""
    often = [name for name, count in zip(*np.unique(labels, return_counts=True), strict=True) if count > 1]
    pairs: list[tuple[int, int, bool]] = []
    while len(pairs) < n:
        if len(pairs) % 2:
            one, other = rng.choice(np.flatnonzero(labels == rng.choice(often)), size=2, replace=False)
        else:
            one = rng.integers(len(labels))
            other = rng.choice(np.flatnonzero(labels != labels[one]))
        pairs.append((int(one), int(other), len(pairs) % 2 == 1))
    return [pairs[place] for place in rng.permutation(n)]


def _means(model: Any, tokenizer: Any, tokens: list[list[int]], rows: Sequence[int]) -> torch.Tensor:
    batch = encoder.padded(tokenizer, [tokens[row] for row in rows], "cpu")
    mask = batch["attention_mask"].unsqueeze(-1)
    return (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
