"""The sealed test set, and the pool of chunks that may be trained on beside it.

The test set is drawn once, at random, and kept: files that are added later never redraw it, and nothing that is close
to one of its texts is trained on. Otherwise accuracy is measured on what was learned by heart (the original draws new
test texts each round and then trains on them). Only `added_since` and what is called `open_...` touch the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from nbhelpers.config import Config
from nbhelpers.errors import NotEnoughChunksError
from nbhelpers.lock import one_step
from nbhelpers.run_folder import RunFolder, write_json
from nbhelpers.selection import random_order


@dataclass(frozen=True)
class Pool:
    """The chunks that may be trained on.

    `scope` says what the accuracy holds for: "documents" (no chunk of a test document is trained on) or "chunks" (too
    few chunks for that: only the neighbours of test chunks are left out, so it holds for these documents).
    """

    chunks: pd.DataFrame
    scope: Literal["documents", "chunks"]
    left_out: int

    def __str__(self) -> str:
        others = (
            "and no chunk of a test document is among them."
            if self.scope == "documents"
            else "but other chunks of the test documents are among them, as there are too few without."
        )
        are = "is" if self.left_out == 1 else "are"
        return f"{len(self.chunks)} may be trained on; {self.left_out} {are} too close to a test text, {others}"


def open_test_set(config: Config, run: RunFolder) -> tuple[pd.DataFrame, Pool]:
    """The run folder's test set, drawn where there is none yet, and the pool beside it.

    Every chunk ever drawn stays on the list: a test set that is made smaller and larger again is the same. Texts that
    the rules were fitted to (`rules.refine`) are never drawn, but may be trained on.

    Returns:
        The test texts (rows of the chunks table, in the order of the draw), and what may be trained on.
    Raises:
        NotEnoughChunksError: before anything is paid for.
        RunFolderError: another run works on the folder.
    """
    training, seed = config.training, config.system.seed
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    check_enough(len(chunks), test_set_size=training.test_set_size, train_set_size=training.train_set_size)
    before = _drawn_before(run, seed)
    drawn: list[str] = before.get("chunk_ids", [])
    fitted_to = set(run.read_json(run.pilot, made_by="02_rules")["chunk_ids"]) if run.pilot.exists() else set()
    candidates = [chunk_id for chunk_id in chunks["chunk_id"] if chunk_id not in fitted_to]
    if len(candidates) < training.test_set_size:
        raise NotEnoughChunksError(
            f"{len(candidates)} chunks are left without the pilot that the rules were fitted to, but test_set_size is "
            f"{training.test_set_size}. Add texts, or lower it."
        )
    ids = draw_test_set(candidates, size=training.test_set_size, seed=seed, drawn=drawn)
    pool = open_pool(config, run, chunks, ids)
    everything = drawn + [chunk_id for chunk_id in ids if chunk_id not in set(drawn)]
    with one_step(run.root):
        write_json(run.test_set, {"seed": seed, "chunks": before.get("chunks", len(chunks)), "chunk_ids": everything})
    return chunks.set_index("chunk_id").loc[ids].reset_index(), pool


def added_since(config: Config, run: RunFolder, chunks: pd.DataFrame) -> int:
    """How many more texts there are than when the test set was drawn, of which it is a random sample."""
    return max(0, len(chunks) - int(_drawn_before(run, config.system.seed).get("chunks", len(chunks))))


def open_pilot(config: Config, run: RunFolder) -> pd.DataFrame:
    """The chunks on which the rules are tried (`rules.refine`), in the order of the draw; kept once drawn.

    They are random, and none of the test set, as none of them is drawn for that.

    Raises:
        NotEnoughChunksError: before anything is paid for.
        RunFolderError: another run works on the folder.
    """
    n, seed, test = config.rules.refine, config.system.seed, config.training.test_set_size
    chunks = run.read_table(run.chunks, made_by="01_ingest")
    if len(chunks) - n < test:
        raise NotEnoughChunksError(
            f"There are {len(chunks)} chunks: a pilot of {n} (rules.refine) leaves {len(chunks) - n} for a test set of "
            f"{test}. Lower rules.refine or training.test_set_size, or add texts."
        )
    tested = run.read_json(run.test_set, made_by="03_test_labels")["chunk_ids"] if run.test_set.exists() else []
    before = run.read_json(run.pilot, made_by="02_rules") if run.pilot.exists() else {}
    drawn = before.get("drawn", []) if before.get("seed") == seed else []
    free = set(chunks["chunk_id"]) - set(tested)
    kept = [chunk_id for chunk_id in drawn if chunk_id in free]
    ids = [*kept, *random_order(sorted(free - set(drawn)), seed, purpose="pilot")][:n]
    drawn = list(dict.fromkeys([*drawn, *ids]))
    ever = list(dict.fromkeys([*before.get("chunk_ids", []), *ids]))
    with one_step(run.root):
        write_json(run.pilot, {"seed": seed, "drawn": drawn, "chunk_ids": ever})
    return chunks.set_index("chunk_id").loc[ids].reset_index()


def open_pool(config: Config, run: RunFolder, chunks: pd.DataFrame, test_ids: Sequence[str]) -> Pool:
    """The pool for this config and run folder; see `training_pool`."""
    training = config.training
    return training_pool(
        chunks,
        run.read_table(run.occurrences, made_by="01_ingest"),
        test_ids,
        wanted=training.train_set_size + (training.max_iters - 1) * training.train_set_increment,
        at_least=training.train_set_size,
    )


def draw_test_set(chunk_ids: Sequence[str], *, size: int, seed: int, drawn: Sequence[str] = ()) -> list[str]:
    """The chunks of the test set, in the order in which they were drawn.

    Args:
        chunk_ids: all chunks there are now.
        size: how many to draw.
        seed: fixes the draw.
        drawn: an earlier draw. Its chunks stay (those still there), and only what is missing is drawn: in an order of
            its own, since the texts that come next in the first one are those that were drawn at random for training.
    Example: 5 chunks, size 2, drawn ["c"] -> ["c", one of the other four].
    """
    present = set(chunk_ids)
    kept = [chunk_id for chunk_id in drawn if chunk_id in present][:size]
    purpose = "more test texts" if drawn else "order"
    rest = random_order([chunk_id for chunk_id in chunk_ids if chunk_id not in set(kept)], seed, purpose=purpose)
    return kept + rest[: size - len(kept)]


def check_enough(chunks: int, *, test_set_size: int, train_set_size: int) -> None:
    """Raises a NotEnoughChunksError, before anything is paid for, if the first iteration cannot be filled."""
    if chunks >= test_set_size + train_set_size:
        return
    test = max(2, min(chunks - 2, round(chunks * test_set_size / (test_set_size + train_set_size))))
    remedy = "Add texts, or lower these or system.chunk_size."
    if chunks >= 10:
        remedy += f" training.test_set_size: {test} with training.train_set_size: {chunks - test} would fit."
    raise NotEnoughChunksError(
        f"There are {chunks} chunks, but test_set_size ({test_set_size}) and train_set_size ({train_set_size}) need "
        f"{test_set_size + train_set_size}. {remedy}"
    )


def training_pool(
    chunks: pd.DataFrame,
    occurrences: pd.DataFrame,
    test_ids: Sequence[str],
    *,
    wanted: int,
    at_least: int,
) -> Pool:
    """The chunks that may be trained on without learning the test set.

    Args:
        chunks: with chunk_id and near_group.
        occurrences: with chunk_id, source, position and document, a row for every place where a text stands.
        test_ids: the test set.
        wanted: chunks that all iterations could use; if fewer remain without the test documents, those are allowed.
        at_least: chunks that the first iteration needs.
    Raises:
        NotEnoughChunksError: fewer than `at_least` remain.
    """
    tested = set(test_ids)
    test_groups = set(chunks.loc[chunks["chunk_id"].isin(tested), "near_group"])
    free = chunks[~chunks["chunk_id"].isin(tested) & ~chunks["near_group"].isin(test_groups)]
    test_places = occurrences[occurrences["chunk_id"].isin(tested)]
    shared = occurrences.loc[occurrences["document"].isin(set(test_places["document"])), "chunk_id"]
    pool = free[~free["chunk_id"].isin(set(shared))]
    scope: Literal["documents", "chunks"] = "documents"
    if len(pool) < wanted and len(pool) < len(free):
        near = {(source, position + step) for source, position in _places(test_places) for step in (-1, 1)}
        neighbours = {
            chunk_id
            for chunk_id, place in zip(shared, _places(occurrences.loc[shared.index]), strict=True)
            if place in near
        }
        pool, scope = free[~free["chunk_id"].isin(neighbours)], "chunks"
    if len(pool) < at_least:
        fits = f"; training.train_set_size: {len(pool)} would fit" if len(pool) >= 2 else ""
        raise NotEnoughChunksError(
            f"Of {len(chunks)} chunks, {len(tested)} are the test set and {len(chunks) - len(tested) - len(pool)} are "
            f"near-duplicates or neighbours of its texts; {len(pool)} are left to train on, but train_set_size is "
            f"{at_least}. Lower training.test_set_size, or add texts{fits}."
        )
    return Pool(pool.reset_index(drop=True), scope, len(chunks) - len(tested) - len(pool))


def _drawn_before(run: RunFolder, seed: int) -> dict[str, Any]:
    """The run folder's draw with this seed: chunk_ids and chunks, how many there were; {} before there is one."""
    before = run.read_json(run.test_set, made_by="03_test_labels") if run.test_set.exists() else {}
    return before if before.get("seed") == seed else {}


def _places(occurrences: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(occurrences["source"], occurrences["position"], strict=True))
