"""alignment: the first token of the pool's texts says what the mean over their tokens says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from key_words import VOCABULARY, keyword_texts
from tiny_models import tiny_bert, tiny_distilbert, tiny_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2Model

from nbhelpers import alignment, encoder
from nbhelpers.alignment import MADE_FROM, aligned_encoder
from nbhelpers.errors import ClassifierError
from nbhelpers.features import CACHE, features
from nbhelpers.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")
POOL = keyword_texts(80)[0]
OTHERS = keyword_texts(40, seed=1)[0]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of each training that was needed; the trainings are real."""
    steps: list[int] = []
    minimise = alignment.minimise
    monkeypatch.setattr(alignment, "minimise", lambda *a, **k: (steps.append(k["steps"]), minimise(*a, **k)))
    return steps


def closeness(folder: Path, base_model: Path) -> float:
    """Mean cosine of the base model's mean with what the pooling layer gives, or the last layer reads where there is
    none, on texts that were not trained on."""
    tokenizer, said = AutoTokenizer.from_pretrained(folder), []
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pooling = encoder.pooling_layer(model)
    if pooling is None:
        encoder.output_layer(model).register_forward_hook(lambda _, inputs, __: said.append(inputs[0].numpy()))
    else:
        model.get_submodule(pooling).register_forward_hook(lambda *call: said.append(call[-1].numpy()))
    with torch.inference_mode():
        model(**tokenizer(OTHERS, padding=True, return_tensors="pt"))
    rows = said[0] / np.linalg.norm(said[0], axis=1, keepdims=True)
    return float((rows * features(OTHERS, base_model=base_model)).sum(axis=1).mean())


@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert])
def test_the_head_reads_what_the_mean_says_of_other_texts_too(
    make: Callable[..., Path], run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alignment, "rate_by_width", lambda model: 3e-3)  # a tiny random encoder needs a high one
    base = make(tmp_path / "base", VOCABULARY)
    folder = aligned_encoder(POOL, base_model=base, seed=0, run=run)
    assert closeness(base, base) < 0.5
    assert closeness(folder, base) > 0.8


def test_a_head_without_a_pooling_layer_reads_the_mean_itself(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import MobileBertConfig, MobileBertModel

    config = MobileBertConfig(
        **{"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 64, "intra_bottleneck_size": 16, "classifier_activation": False},
    )
    base = tiny_bert(tmp_path / "base", VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(base)
    config.vocab_size = len(tokenizer)
    MobileBertModel(config).save_pretrained(base)
    monkeypatch.setattr(alignment, "rate_by_width", lambda model: 3e-3)
    folder = aligned_encoder(POOL, base_model=base, seed=0, run=run)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert encoder.pooling_layer(model) is None
    assert 1 - closeness(folder, base) < (1 - closeness(base, base)) / 4


def test_a_layer_that_reads_every_token_pools_nothing(run: RunFolder, tmp_path: Path):
    base = tiny_encoder("NomicBert", tmp_path / "base", VOCABULARY)  # its last layer reads the mean of all tokens
    with encoder.quiet():
        before = AutoModelForSequenceClassification.from_pretrained(base)
        folder = aligned_encoder(POOL, base_model=base, seed=0, run=run)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert encoder.pooling_layer(model) is None
    weights = dict(before.named_parameters())["nomic_bert.layers.1.self_attn.o_proj.weight"].detach()
    moved = dict(model.named_parameters())["nomic_bert.layers.1.self_attn.o_proj.weight"].detach()
    assert moved.flatten() == pytest.approx(weights.flatten(), abs=0.05)  # and was not made the identity
    assert closeness(folder, base) > 0.9


def test_it_is_made_once_and_again_only_where_something_changed(bert: Path, run: RunFolder, trainings: list[int]):
    folder = aligned_encoder(POOL, base_model=bert, seed=0, run=run)
    before = (folder / "model.safetensors").read_bytes()
    assert aligned_encoder(POOL, base_model=bert, seed=0, run=run) == folder
    assert trainings == [40]  # 8 passes over 80 texts, 16 at a time
    aligned_encoder(POOL[:20], base_model=bert, seed=0, run=run)
    aligned_encoder(POOL[:20], base_model=bert, seed=1, run=run)
    assert trainings == [40, 10, 10]
    for damaged in (MADE_FROM, "model.safetensors", "config.json"):
        aligned_encoder(POOL, base_model=bert, seed=0, run=run)
        assert (folder / "model.safetensors").read_bytes() == before
        (folder / damaged).unlink()
        aligned_encoder(POOL, base_model=bert, seed=0, run=run)
    assert trainings == [40, 10, 10, 40, 40, 40, 40]


def test_another_base_model_is_aligned_anew(bert: Path, run: RunFolder, tmp_path: Path, trainings: list[int]):
    aligned_encoder(POOL, base_model=bert, seed=0, run=run)
    aligned_encoder(POOL, base_model=tiny_bert(tmp_path / "other", VOCABULARY), seed=0, run=run)
    assert len(trainings) == 2


def test_many_texts_are_sampled_and_steps_are_limited(
    bert: Path, run: RunFolder, trainings: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alignment, "TEXTS", 30)
    monkeypatch.setattr(alignment, "STEPS", 4)
    aligned_encoder(POOL, base_model=bert, seed=0, run=run)
    assert trainings == [4]
    assert len(pd.read_parquet(run.root / CACHE)) == 30  # features of no more were computed


def test_a_killed_training_leaves_nothing_and_a_wrong_model_is_told(
    bert: Path, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(alignment, "minimise", killed)
        with pytest.raises(KeyboardInterrupt):
            aligned_encoder(POOL, base_model=bert, seed=0, run=run)
    assert not (run.root / "encoder").exists()
    causal = tmp_path / "causal"
    GPT2Model(GPT2Config(vocab_size=99, n_embd=32, n_layer=1, n_head=2)).save_pretrained(causal)
    AutoTokenizer.from_pretrained(bert).save_pretrained(causal)
    with pytest.raises(ClassifierError, match="type gpt2 is no text encoder"):
        aligned_encoder(POOL, base_model=causal, seed=0, run=run)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "config.json").write_text("{}")
    (tmp_path / "nothing" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ClassifierError, match=r"training\.model_path"):
        aligned_encoder(POOL, base_model=tmp_path / "nothing", seed=0, run=run)
