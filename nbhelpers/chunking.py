"""Texts -> chunks at sentence ends, their content ids, and groups of near-duplicates.

A chunk is what is labelled and classified. It never ends inside a sentence unless the sentence alone is too long. It
knows nothing of files, tokens or tables. Sources: sentencex (Wikimedia) for sentence ends; MinHash with
locality-sensitive hashing (Leskovec et al., "Mining of Massive Datasets", chapter 3) through datasketch.
"""

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHINGLE = 5  # characters
PERMUTATIONS = 128

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """A piece of a text: `text[start:end]`, or what truncation left of it."""

    text: str
    start: int
    end: int
    truncated: bool


def cut(text: str, *, max_chars: int, truncation: str = "head-tail") -> list[Chunk]:
    """Pack whole sentences into as few chunks as they need, starting them at paragraphs where that costs no chunk more.

    Args:
        text: a document's text; a blank line ends a sentence.
        max_chars: longest chunk, at least 1.
        truncation: what is kept of a sentence that is longer still, see `truncate`.
    Returns:
        Chunks in order, stripped, without overlap; they hold every character that is not white space. A sentence over
        `max_chars` is cut at its line breaks (tables, lists); a line over it is a chunk of its own, truncated.
        Example: "One. Two.\\n\\nThree." with max_chars=9 -> "One. Two.", "Three.".
    """
    _check(max_chars, truncation)
    sentences, opens = _sentences(text, max_chars)
    chunks = []
    first = 0
    for end in _ends(sentences, opens, max_chars):
        span = (sentences[first][0], sentences[end - 1][1])
        piece = text[slice(*span)]
        chunks.append(Chunk(truncate(piece, max_chars=max_chars, truncation=truncation), *span, len(piece) > max_chars))
        first = end
    return chunks


def truncate(text: str, *, max_chars: int, truncation: str = "head-tail") -> str:
    """Shorten a text to exactly `max_chars` characters; a shorter one stays as it is.

    Args:
        text: any text.
        max_chars: how many characters are kept, at least 1.
        truncation: "head" keeps the beginning; "head-tail" keeps half from each end, the odd one from the beginning.
    Returns:
        Example: "abcdefgh" with max_chars=5 -> "abcde" by "head", "abcgh" by "head-tail".
    Raises:
        ValueError: `max_chars` is under 1, or `truncation` is not one of the two.
    """
    _check(max_chars, truncation)
    if len(text) <= max_chars:
        return text
    tail = max_chars // 2 if truncation == "head-tail" else 0
    return text[: max_chars - tail] + text[len(text) - tail :]


def chunk_id(text: str) -> str:
    """A name for a text by its content: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def near_duplicate_groups(
    texts: Sequence[str], *, threshold: float = 0.7, progress: Callable[[int], object] | None = None
) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Number the groups of texts that say nearly the same in nearly the same words.

    Two texts are near-duplicates where the five-character pieces of their casefolded words, without punctuation,
    overlap by `threshold` (Jaccard); a group is everything linked by such pairs.

    Args:
        texts: any texts.
        threshold: over 0, up to 1.
        progress: called with the number of texts just done, such as tqdm's `update`.
    Returns:
        One number a text: the position of the first text of its group.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}: give a share over 0, up to 1")
    groups = np.arange(len(texts), dtype=np.int64)
    first_of: dict[str, int] = {}
    for number, key in enumerate(_normalised(texts)):
        groups[number] = first_of.setdefault(key, number)
    distinct = list(first_of.values())
    roots = _linked([_shingles(key) for key in first_of], threshold, progress)
    if progress is not None:
        progress(len(texts) - len(distinct))
    root_of = dict(zip(distinct, (distinct[root] for root in roots), strict=True))
    return np.array([root_of[group] for group in groups.tolist()], dtype=np.int64)


def _check(max_chars: int, truncation: str) -> None:
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}: give at least 1")
    if truncation not in ("head-tail", "head"):
        raise ValueError(f'truncation is "{truncation}": give "head-tail" or "head"')


def _sentences(text: str, max_chars: int) -> tuple[list[Span], list[bool]]:
    """Stripped spans of the sentences, and of each whether it opens a paragraph."""
    spans: list[Span] = []
    opens: list[bool] = []
    for start, end in _between(re.compile(r"\n\s*\n"), text, 0, len(text)):
        opening = True
        for span in _segments(text, start, end):
            # Rows of a table and items of a list have no full stop: better cut at a line end than truncated.
            too_long = span[1] - span[0] > max_chars
            for piece in _between(re.compile(r"\n"), text, *span) if too_long else [span]:
                spans.append(piece)
                opens.append(opening)
                opening = False
    return spans, opens


def _segments(text: str, start: int, end: int) -> list[Span]:
    from sentencex import segment

    paragraph = text[start:end]
    try:
        pieces = list(segment("en", paragraph))
    except UnicodeEncodeError:  # a lone surrogate
        pieces = []
    if "".join(pieces) != paragraph:  # a segmenter that changes the text cannot say where a sentence is
        return list(_between(re.compile(r"(?<=[.!?…。！？])\s+"), text, start, end))
    spans = []
    for piece in pieces:
        spans += _between(None, text, start, start + len(piece))
        start += len(piece)
    return spans


def _between(separator: re.Pattern[str] | None, text: str, start: int, end: int) -> list[Span]:
    """The stripped, non-empty spans between separators in `text[start:end]`."""
    marks = [match.span() for match in separator.finditer(text, start, end)] if separator is not None else []
    begins = [start, *(mark[1] for mark in marks)]
    ends = [*(mark[0] for mark in marks), end]
    spans = []
    for begin, finish in zip(begins, ends, strict=True):
        piece = text[begin:finish]
        if stripped := piece.strip():
            begin += len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(stripped)))
    return spans


def _ends(sentences: list[Span], opens: list[bool], max_chars: int) -> list[int]:
    """Where each chunk ends, as a number of sentences.

    Filling each chunk to the brim gives the fewest chunks; ending one at the last paragraph end instead is taken where
    it leads to no more of them. Worked out from the text's end, with (chunks, chunks that start inside a paragraph).
    """
    count = len(sentences)
    cost: list[tuple[int, int]] = [(0, 0)] * (count + 1)
    choice = [count] * (count + 1)
    brim = count
    opening = [0] * (count + 1)  # the last sentence up to here that opens a paragraph; the text's end opens one too
    for number in range(count):
        opening[number] = number if opens[number] else opening[number - 1]
    opening[count] = count
    for first in range(count - 1, -1, -1):
        while brim > first + 1 and sentences[brim - 1][1] - sentences[first][0] > max_chars:
            brim -= 1
        options = {brim, opening[brim]} if opening[brim] > first else {brim}
        choice[first] = min(options, key=lambda end: (*cost[end], -end))
        chunks, inside = cost[choice[first]]
        cost[first] = (chunks + 1, inside + (not opens[first]))
    ends = []
    first = 0
    while first < count:
        first = choice[first]
        ends.append(first)
    return ends


def _normalised(texts: Sequence[str]) -> list[str]:
    """Casefolded, without punctuation and symbols, white space squeezed; a text of nothing else stays itself."""
    characters = {char for text in texts for char in text}
    table = {ord(char): None for char in characters if unicodedata.category(char)[0] in "PS"}
    plain = (" ".join(text.casefold().translate(table).split()) for text in texts)
    return [key or f"\0{text}" for key, text in zip(plain, texts, strict=True)]


def _shingles(key: str) -> "np.ndarray[Any, np.dtype[np.uint32]]":
    """The hashes of all five-character pieces; a shorter text is one piece."""
    pieces = {key[i : i + SHINGLE] for i in range(max(len(key) - SHINGLE + 1, 1))}
    hashes = (zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in pieces)
    return np.unique(np.fromiter(hashes, dtype=np.uint32))


def _linked(
    shingles: "list[np.ndarray[Any, np.dtype[np.uint32]]]",
    threshold: float,
    progress: Callable[[int], object] | None,
) -> list[int]:
    """The first member of each text's group: candidates by MinHash, verified by the exact overlap."""
    from datasketch import MinHash, MinHashLSH
    from scipy.sparse import csr_matrix

    if not shingles:
        return []
    lsh = MinHashLSH(threshold=max(threshold - 0.2, 0.1), num_perm=PERMUTATIONS)
    sizes = np.array([len(row) for row in shingles])
    pieces, columns = np.unique(np.concatenate(shingles), return_inverse=True)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(sizes), len(pieces)))
    marked = np.zeros(len(pieces), dtype=np.int32)
    groups = np.arange(len(shingles))
    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    for number, row in enumerate(shingles):
        signature = empty.copy()
        signature.update_batch(row.tolist())
        candidates = np.array(sorted(lsh.query(signature)), dtype=np.int64)
        lsh.insert(number, signature)
        # One text of thousands of near-identical ones has them all as candidates: verify one of each group at first.
        while len(candidates):
            _, ones = np.unique(groups[candidates], return_index=True)
            mine = columns[starts[number] : starts[number + 1]]
            marked[mine] = 1
            tried = candidates[ones]
            shared = matrix[tried] @ marked
            marked[mine] = 0
            near = tried[shared >= threshold * (sizes[tried] + sizes[number] - shared)]
            for group in {int(group) for group in groups[near]}:
                low, high = sorted((group, int(groups[number])))
                groups[groups == high] = low
            candidates = np.delete(candidates, ones)
            candidates = candidates[groups[candidates] != groups[number]]
        if progress is not None:
            progress(1)
    return [int(group) for group in groups]
