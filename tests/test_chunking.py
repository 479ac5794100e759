import hashlib
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.chunking import chunk_id, cut, near_duplicate_groups, truncate

pieces = st.sampled_from(
    ["Hello there. ", "Dr. Smith went!", " ", "\n", "\n\n", "\r\n", "x" * 30, "。", "é\u0301", "🙂", "\x1c"]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=20)), max_size=30).map("".join)
truncations = st.sampled_from(["head", "head-tail"])


@given(texts, st.integers(1, 60), truncations)
def test_chunks_hold_everything_in_order_within_the_limit(text, max_chars, truncation):
    chunks = cut(text, max_chars=max_chars, truncation=truncation)
    end = 0
    for chunk in chunks:
        span = text[chunk.start : chunk.end]
        assert text[end : chunk.start].strip() == ""
        assert span == span.strip() != ""
        assert chunk.truncated == (len(span) > max_chars)
        assert chunk.text == truncate(span, max_chars=max_chars, truncation=truncation)
        assert len(chunk.text) == (max_chars if chunk.truncated else len(span))
        end = chunk.end
    assert text[end:].strip() == ""


@given(texts, st.integers(1, 60))
def test_a_chunk_and_the_first_sentence_of_the_next_do_not_both_fit_unless_a_paragraph_starts(text, max_chars):
    chunks = cut(text, max_chars=max_chars)
    for one, other in pairwise(chunks):
        if "\n" not in text[one.end : other.end]:
            first = cut(other.text, max_chars=1)[0]
            assert other.truncated or other.start + first.end - one.start > max_chars


@given(st.text(), st.integers(1, 50), truncations)
def test_truncation_keeps_exactly_the_ends(text, max_chars, truncation):
    short = truncate(text, max_chars=max_chars, truncation=truncation)
    if len(text) <= max_chars:
        assert short == text
        return
    head = max_chars if truncation == "head" else (max_chars + 1) // 2
    assert len(short) == max_chars
    assert text.startswith(short[:head])
    assert text.endswith(short[head:])


@pytest.mark.parametrize(
    ("max_chars", "truncation", "expected"),
    [
        (5, "head", "abcde"),
        (5, "head-tail", "abcgh"),
        (4, "head-tail", "abgh"),
        (1, "head-tail", "a"),
        (8, "head", "abcdefgh"),
    ],
)
def test_truncation_by_hand(max_chars, truncation, expected):
    assert truncate("abcdefgh", max_chars=max_chars, truncation=truncation) == expected


@pytest.mark.parametrize(("max_chars", "truncation"), [(0, "head"), (-1, "head-tail"), (5, "tail"), (5, "head_tail")])
def test_wrong_limits_are_refused(max_chars, truncation):
    with pytest.raises(ValueError, match="give"):
        truncate("abc", max_chars=max_chars, truncation=truncation)
    with pytest.raises(ValueError, match="give"):
        cut("abc", max_chars=max_chars, truncation=truncation)


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("", 10, []),
        (" \n\n ", 10, []),
        ("One. Two. Three.", 9, ["One. Two.", "Three."]),
        ("One. Two. Three.", 16, ["One. Two. Three."]),
        ("One. Two. Three.", 8, ["One.", "Two.", "Three."]),
        ("  One.  Two. ", 100, ["One.  Two."]),
        # Greedy would end the first chunk inside the second paragraph; two chunks are enough without that.
        ("Aa. Bb.\n\nCc. Dd.", 13, ["Aa. Bb.", "Cc. Dd."]),
        # Here a chunk that starts at the paragraph would need one more, so it is filled up.
        ("Aa. Bb.\n\nCc. Dd. Ee.", 12, ["Aa. Bb.", "Cc. Dd. Ee."]),
        ("Aa. Bb.\n\nCc. Dd. Ee. Ff.", 12, ["Aa. Bb.\n\nCc.", "Dd. Ee. Ff."]),
        ("A heading\n\nIts text", 12, ["A heading", "Its text"]),
        ("I met Dr. Smith. He left.", 17, ["I met Dr. Smith.", "He left."]),
        ("今日は良い天気です。明日は雨でしょう。", 11, ["今日は良い天気です。", "明日は雨でしょう。"]),
        # No sentence end, but lines: better cut there than truncated.
        ("red apple\ngreen pear\nplum", 15, ["red apple", "green pear\nplum"]),
    ],
)
def test_cutting_by_hand(text, max_chars, expected):
    chunks = cut(text, max_chars=max_chars)
    assert [chunk.text for chunk in chunks] == expected
    assert not any(chunk.truncated for chunk in chunks)


def test_a_sentence_that_cannot_be_cut_is_truncated_alone():
    text = "Short one. " + "a" * 30 + "z" * 30 + ". Last."
    first, long, last = cut(text, max_chars=20)
    assert (first.text, last.text) == ("Short one.", "Last.")
    assert (long.text, long.truncated) == ("a" * 10 + "z" * 9 + ".", True)
    assert text[long.start : long.end] == "a" * 30 + "z" * 30 + "."
    assert cut(text, max_chars=20, truncation="head")[1].text == "a" * 20


def test_a_text_with_lone_surrogates_is_cut_all_the_same():
    assert [chunk.text for chunk in cut("One \ud800. Two.", max_chars=7)] == ["One \ud800.", "Two."]


def test_cutting_takes_time_in_proportion():
    started = time.monotonic()
    assert len(cut("Go on. " * 50_000, max_chars=117_000)) == 3
    assert len(cut("word " * 100_000 + "\n" * 100_000 + "b", max_chars=900)) == 2
    assert time.monotonic() - started < 5


def test_the_id_is_the_hash_of_the_text():
    assert chunk_id("Grüße") == hashlib.sha256("Grüße".encode()).hexdigest()[:16]
    assert len({chunk_id("a"), chunk_id("a "), chunk_id("A")}) == 3


SENTENCE = "The committee will meet again on Thursday to discuss the budget proposals"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["one"], [0]),
        ([SENTENCE, "Something else entirely about football", SENTENCE.replace("Thursday", "Tuesday")], [0, 1, 0]),
        ([SENTENCE, SENTENCE.upper() + "!!!", f"“{SENTENCE}”", "  " + SENTENCE.replace(" ", "\n ")], [0, 0, 0, 0]),
        ([SENTENCE, "A goalkeeper from Ghana has signed for a club in the north of Spain"], [0, 1]),
        (["ok", "OK!", "no", "No."], [0, 0, 2, 2]),
        (["!!!", "???", "!!!", "", "", ":-)"], [0, 1, 0, 3, 3, 5]),
        (["今日は良い天気ですね、散歩に行きましょう", "今日は良い天気ですね。散歩に行きましょう！"], [0, 0]),
        (["a\ud800b", "a\ud800b"], [0, 0]),
    ],
)
def test_near_duplicates_by_hand(texts, expected):
    groups = near_duplicate_groups(texts)
    assert groups.dtype == np.int64
    assert groups.tolist() == expected


def test_the_threshold_is_the_exact_overlap():
    one, other = "abcdefghij", "abcdefghijklm"  # 6 and 9 pieces of five characters, 6 shared: Jaccard 2/3
    assert near_duplicate_groups([one, other], threshold=0.66).tolist() == [0, 0]
    assert near_duplicate_groups([one, other], threshold=0.67).tolist() == [0, 1]
    with pytest.raises(ValueError, match="threshold"):
        near_duplicate_groups([one], threshold=0)


def test_groups_are_linked_by_chains_and_named_by_their_first_member():
    words = [f"w{number:03d}" for number in range(40)]
    chain = [" ".join(words[start : start + 30]) for start in (0, 3, 6, 9)]
    ends = near_duplicate_groups([chain[0], chain[3]])
    assert ends.tolist() == [0, 1]
    assert near_duplicate_groups(["unrelated text", chain[0], chain[3], chain[1], chain[2]]).tolist() == [0, 1, 1, 1, 1]


@given(st.lists(st.text(max_size=12), max_size=12))
def test_groups_are_a_partition_named_by_first_members(texts):
    groups = near_duplicate_groups(texts)
    assert all(groups[group] == group <= number for number, group in enumerate(groups))
    assert all(groups[texts.index(text)] == groups[number] for number, text in enumerate(texts))


def test_thousands_of_near_identical_and_of_different_texts_take_seconds():
    near = [f"Your order number {number} has been shipped to the address that you gave us" for number in range(2000)]
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    far = ["".join(rng.choice(letters, 80)) for _ in range(3000)]
    done = []
    started = time.monotonic()
    groups = near_duplicate_groups([*near, *far, near[5]], progress=done.append)
    assert time.monotonic() - started < 15
    assert set(groups[:2000].tolist()) == {0}
    assert groups[2000:5000].tolist() == list(range(2000, 5000))
    assert groups[5000] == 0
    assert sum(done) == 5001


def test_nearly_the_same_begins_at_seven_tenths() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 36)))
    assert near_duplicate_groups([text, text[:-9]]).tolist() == [0, 0]
    assert near_duplicate_groups([text, text[:-10]]).tolist() == [0, 1]
