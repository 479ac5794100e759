"""Encoders: how many tokens a text has, how many are read, and what is no encoder."""

import json
import shutil
from contextlib import suppress

import pytest
import torch
from key_words import VOCABULARY, keyword_texts
from tiny_models import tiny_bert, tiny_distilbert, tiny_encoder, tiny_llama

from nbhelpers import alignment, classifier, encoder, training
from nbhelpers.encoder import (
    check_architecture,
    first_token_alone,
    load,
    output_layer,
    quiet,
    token_lengths,
    token_limit,
)
from nbhelpers.errors import ClassifierError
from nbhelpers.features import features
from nbhelpers.training import TrainingSettings, fit


def test_token_lengths_count_special_tokens_and_cut_nothing(tiny_base_model):
    lengths = token_lengths(["", "goal", "goal goal zq", "goal " * 700 + "rain " * 20], tiny_base_model)
    assert lengths.tolist() == [2, 3, 6, 722]
    assert lengths.dtype.kind == "i"
    assert token_lengths([], tiny_base_model).shape == (0,)


def test_token_limit_is_the_smallest_of_512_the_positions_and_the_tokenizers(tiny_base_model, tmp_path):
    assert token_limit(tiny_base_model) == 512
    assert token_limit(tiny_bert(tmp_path / "short", ["goal"], max_tokens=48)) == 48
    roberta = tiny_encoder("Roberta", tmp_path / "roberta", ["goal"])
    assert token_limit(roberta) == 39  # its positions start after the padding's, which is 0 here ...
    config = json.loads((roberta / "config.json").read_text("utf-8"))
    (roberta / "config.json").write_text(json.dumps({**config, "pad_token_id": 1, "max_position_embeddings": 514}))
    assert token_limit(roberta) == 512  # ... and 1 in the real one
    (roberta / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}))
    assert token_limit(roberta) == 38
    assert token_limit(tiny_encoder("Electra", tmp_path / "electra", ["goal"])) == 40
    config = json.loads((tiny_base_model / "tokenizer_config.json").read_text("utf-8"))
    folder = shutil.copytree(tiny_base_model, tmp_path / "by_tokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 99}))
    assert token_limit(folder) == 99


def test_a_tokenizer_that_cannot_fill_up_batches_is_told(tiny_base_model, tmp_path):
    folder = shutil.copytree(tiny_base_model, tmp_path / "no_padding")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}))
    with quiet(), pytest.raises(ClassifierError, match=r"has no padding token.*training\.model_path"):
        token_limit(folder)


def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    assert encoder.best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert encoder.best_device().type == "cuda"
    for supported in (True, False):  # bfloat16 in hardware, whatever this machine's CPU does
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=supported: answer)
        assert encoder.bfloat16_pays(encoder.best_device()) == supported


def test_a_head_on_every_token_is_told_from_the_config_alone(tmp_path):
    with pytest.raises(ClassifierError, match=r"type eurobert is no text encoder with a usual head"):
        check_architecture(tiny_encoder("EuroBert", tmp_path / "a", ["goal"]))
    for kind in ("NomicBert", "Deberta"):
        check_architecture(tiny_encoder(kind, tmp_path / kind, ["goal"]))


@pytest.mark.parametrize(("kind", "trained_in"), [("Deberta", "bfloat16"), ("Mra", "float32")])
def test_an_architecture_that_fails_in_bfloat16_is_computed_in_float32(kind, trained_in, tmp_path, monkeypatch):
    """Deberta does under autocast, Mra with weights in bfloat16, too."""
    monkeypatch.setattr(encoder, "bfloat16_pays", lambda device: True)
    monkeypatch.setattr(classifier, "EXACT_TEXTS", 0)
    texts, labels = keyword_texts(20)
    with quiet():
        base = tiny_encoder(kind, tmp_path / kind, VOCABULARY)
    assert features(texts, base_model=base).shape == (20, 64)
    settings = TrainingSettings(min_steps=2, epochs=0)
    made = fit(texts, labels, classes=sorted(set(labels)), base_model=base, settings=settings)
    assert made.training["dtype"] == trained_in
    assert made.predict_proba(texts).shape == (20, 3)


def test_a_model_that_writes_text_is_no_encoder(tmp_path):
    with quiet():
        model = load("AutoModelForSequenceClassification", tiny_llama(tmp_path))
    with pytest.raises(ClassifierError, match=r"type llama is no text encoder.*training\.model_path"):
        output_layer(model)


def sequence_classifier(kind, folder, **config):
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        base = tiny_distilbert(folder) if kind == "DistilBert" else tiny_encoder(kind, folder, ["goal"])
        return load("AutoModelForSequenceClassification", base, num_labels=3, **config)


def said_and_learned(model):
    """Logits and gradients of two texts of different length, and how many products read one token and how many five."""
    read = []
    hooks = [
        part.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[1]))
        for part in model.base_model.modules()
        if isinstance(part, torch.nn.Linear)
    ]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    model.zero_grad()
    logits = model(input_ids=torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]]), attention_mask=mask).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    for hook in hooks:
        hook.remove()
    return (read.count(1), read.count(5)), [logits, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "Electra", "DebertaV2", "ModernBert"])
def test_the_last_layer_computes_the_first_token_alone_and_learns_the_same(kind, tmp_path):
    model = sequence_classifier(kind, tmp_path)
    (none, every), expected = said_and_learned(model)
    with first_token_alone(model):
        alone, found = said_and_learned(model)
    assert (none, alone) == (0, (3, every - 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    with suppress(KeyError), first_token_alone(model):
        raise KeyError
    assert said_and_learned(model)[0] == (0, every)


@pytest.mark.parametrize(("kind", "config"), [("ModernBert", {"classifier_pooling": "mean"}), ("Albert", {})])
def test_nothing_is_left_out_where_the_head_reads_all_tokens_or_layers_share_their_weights(kind, config, tmp_path):
    model = sequence_classifier(kind, tmp_path, **config)
    read, expected = said_and_learned(model)
    with first_token_alone(model):
        read_alone, found = said_and_learned(model)
    assert read_alone == read
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_encoder_without_layers_leaves_nothing_out(tmp_path):
    model = sequence_classifier("Bert", tmp_path, num_hidden_layers=0)
    with first_token_alone(model):
        read, _ = said_and_learned(model)
    assert read == (0, 0)


@pytest.mark.parametrize("learned_by", [training, alignment])
def test_both_trainings_leave_it_out(learned_by, tiny_base_model, run, monkeypatch):
    real, read = learned_by.minimise, []

    def minimise(model, *args, **options):
        last = model.bert.encoder.layer[-1].output.dense
        last.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[1]))
        return real(model, *args, **options)

    monkeypatch.setattr(learned_by, "minimise", minimise)
    texts, labels = keyword_texts(20)
    if learned_by is alignment:
        alignment.aligned_encoder(texts, base_model=tiny_base_model, seed=0, run=run)
    else:
        settings = TrainingSettings(min_steps=2, epochs=0)
        fit(texts, labels, classes=sorted(set(labels)), base_model=tiny_base_model, settings=settings)
    assert set(read) == {1}
