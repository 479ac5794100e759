"""training_loop: what a loss is minimised with, in float32 and in bfloat16, for any encoder."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from key_words import LABELS, ODD_CLASSES, TEXTS, VOCABULARY, replaced
from tiny_models import tiny_bert
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from nbhelpers import encoder, training_loop
from nbhelpers.training import fit
from nbhelpers.training_loop import minimise, train_batches

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = pytest.mark.parametrize("pays", [False, True], ids=["float32", "bfloat16"])


@pytest.fixture
def bert_model(bert):
    return AutoModel.from_pretrained(bert)


def train(model, monkeypatch, *, pays, steps=10, rate=1e-3, seen=None):
    """Pulls the first token's first number to 1."""
    monkeypatch.setattr(encoder, "bfloat16_pays", lambda device: pays)
    ids = torch.tensor([[2, 5, 6, 3]])

    def loss(working, rows):
        if seen is not None:
            seen.append((working.dtype, working.training, rows))
        return (working(input_ids=ids).last_hidden_state[0, 0, 0].float() - 1) ** 2

    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]
    minimise(model, loss, itertools.repeat([0]), parameters=groups, steps=steps)
    with torch.inference_mode():
        return model(input_ids=ids).last_hidden_state[0, 0, 0].item()


@BOTH
def test_the_loss_falls_and_the_model_stays_float32_without_gradients(bert_model, monkeypatch, pays):
    seen = []
    assert train(bert_model, monkeypatch, pays=pays, steps=30, rate=5e-3, seen=seen) == pytest.approx(1, abs=0.1)
    assert {p.dtype for p in bert_model.parameters()} == {torch.float32}
    assert all(p.grad is None for p in bert_model.parameters())
    assert seen == [(torch.bfloat16 if pays else torch.float32, False, [0])] * 30  # False: no dropout


def test_steps_too_small_for_bfloat16_add_up(bert_model, monkeypatch):
    weight = bert_model.encoder.layer[0].output.dense.weight
    before = weight.detach().clone()
    train(bert_model, monkeypatch, pays=True, rate=1e-6)
    moved = (weight - before).abs()
    assert moved.max() < 2e-5  # ten steps of at most 1e-6 each, and of decay
    assert (moved > 0).float().mean() > 0.9  # of weights of about 0.02, which bfloat16 knows to 1e-4


@BOTH
def test_what_requires_no_gradient_stays_bit_by_bit(bert_model, monkeypatch, pays):
    table = bert_model.get_input_embeddings().weight
    table.requires_grad_(False)
    before = table.detach().clone()
    train(bert_model, monkeypatch, pays=pays)
    assert torch.equal(table, before)


def test_rates_rise_over_a_tenth_of_the_steps_and_fall_to_zero():
    rate = training_loop._warm_up_then_down(40)
    assert [rate(step) for step in (0, 3, 4, 22, 40)] == [0.25, 1, 1, 0.5, 0]
    assert [training_loop._warm_up_then_down(1)(step) for step in (0, 1)] == [1, 0]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300), st.integers(1, 32))
def test_every_text_comes_once_an_epoch(lengths, size):
    batches = train_batches(lengths, size, random.Random(0))
    for _ in range(2):
        rows: list[int] = []
        while len(rows) < len(lengths):
            batch = next(batches)
            assert len(batch) <= size
            rows += batch
        assert sorted(rows) == list(range(len(lengths)))


def test_a_batch_has_texts_of_like_length():
    batches = train_batches(range(160), 16, random.Random(0))
    spans = [max(rows) - min(rows) for rows in itertools.islice(batches, 10)]
    assert sum(spans) / len(spans) < 100  # 73; of texts drawn at random about 140


ENCODERS = {
    "bert": {},
    "distilbert": {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 64},
    "roberta": {},
    "electra": {"embedding_size": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 32},
    "modernbert": {"pad_token_id": 0, "global_attn_every_n_layers": 2},
}


@BOTH
@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_learns_and_is_saved_as_a_plain_folder(kind, tmp_path, monkeypatch, pays):
    from transformers import AutoConfig

    monkeypatch.setattr(encoder, "bfloat16_pays", lambda device: pays)
    base, saved = tmp_path / "base", tmp_path / "saved"
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert(tmp_path / "bert", VOCABULARY))
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    shape = {"max_position_embeddings": 130, **(ENCODERS[kind] if kind == "distilbert" else shape | ENCODERS[kind])}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    made = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=base, settings=replaced(min_steps=150))
    right = [ODD_CLASSES[i] == label for i, label in zip(made.predict_proba(TEXTS).argmax(axis=1), LABELS, strict=True)]
    assert sum(right) > 0.8 * len(LABELS)
    made.save(saved)
    plain = AutoModelForSequenceClassification.from_pretrained(saved)
    assert plain.dtype == torch.float32
    assert plain.config.id2label[0] == ODD_CLASSES[0]
