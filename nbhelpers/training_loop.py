"""Minimising a loss over batches of texts, in bfloat16 where that is faster: the loop that every training here shares.

What is learned is up to the caller's loss. Weights, AdamW's moments and the update stay in float32; the passes forward
and backward read a bfloat16 copy of the weights, whose casts cost less than autocast's on the CPU. No dropout: its
random numbers take a third of a step of MiniLM on the CPU, and with few labels it gained nothing
(tests/benchmarks/few_labels.py). torch is imported when it is used.

Source: float32 master weights, Micikevicius et al. 2018 (arXiv:1710.03740); AdamW with bias correction and warm-up as a
share of the steps, after Mosbach et al. 2021 (arXiv:2006.04884).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nbhelpers import encoder

if TYPE_CHECKING:
    import torch

WARM_UP = 0.1  # share of the steps
LARGE_TABLE = 0.25  # share of the parameters from which on the table of words is not trained


def freeze_large_table(model: Any) -> None:
    """Leaves the table of words as it is: few texts teach few words, and its updates take as long as all the rest."""
    words = model.get_input_embeddings().weight
    words.requires_grad_(words.numel() < LARGE_TABLE * model.num_parameters())


def rate_by_width(model: Any) -> float:
    """An encoder's learning rate, by its width. Example: 384 (MiniLM) -> 1e-4, 768 (DistilBERT) -> 5e-5."""
    return 0.0384 / float(getattr(model.config, "hidden_size", 768))


def minimise(
    model: Any,
    loss: Callable[[Any, list[int]], torch.Tensor],
    batches: Iterator[list[int]],
    *,
    parameters: list[dict[str, Any]],
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Trains `model` in place, by AdamW.

    Args:
        model: float32, on its device; parameters that require no gradient stay as they are.
        loss: of a batch's rows, by the model that it is given (the working copy).
        batches: at least `steps` of them.
        parameters: groups of the model's parameters with their rates, as torch.optim takes them; the rates rise over
            the first tenth of the steps, then fall to zero.
        progress: called with (steps done, steps in all) after every step.
    Returns:
        What the passes forward and backward were computed in, "bfloat16" or "float32".
    """
    import torch

    model.eval()  # no dropout
    low_precision = encoder.bfloat16_pays(model.device)
    working = copy.deepcopy(model).to(torch.bfloat16) if low_precision else model
    if not encoder.runs(working):
        low_precision, working = False, model
    both = zip(model.parameters(), working.parameters(), strict=True)
    trained = [(own, copied) for own, copied in both if own.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_down(steps))
    for step, rows in zip(range(1, steps + 1), batches, strict=False):
        loss(working, rows).backward()  # type: ignore[no-untyped-call]
        if low_precision:
            for own, copied in trained:
                if copied.grad is not None:
                    own.grad = torch.empty_like(own) if own.grad is None else own.grad
                    own.grad.copy_(copied.grad)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        working.zero_grad()
        if low_precision:
            with torch.no_grad():
                for own, copied in trained:
                    copied.copy_(own)
        schedule.step()
        if progress is not None:
            progress(step, steps)
    model.zero_grad()
    return "bfloat16" if low_precision else "float32"


def train_batches(lengths: Sequence[int], size: int, rng: random.Random) -> Iterator[list[int]]:
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


def _warm_up_then_down(steps: int) -> Callable[[int], float]:
    warm_up = max(1, round(WARM_UP * steps))
    return lambda step: min((step + 1) / warm_up, max(0, steps - step) / max(1, steps - warm_up))
