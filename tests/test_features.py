"""features: mean-pooled rows of a frozen encoder, kept in the run folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_bert, tiny_distilbert
from transformers import AutoModel, AutoTokenizer

from nbhelpers import encoder
from nbhelpers import features as module
from nbhelpers.errors import ClassifierError, ModelNotFoundError
from nbhelpers.features import CACHE, MAX_TOKENS, features
from nbhelpers.run_folder import RunFolder

TEXTS = ["goal match", "the vote on the law, by the minister", "", "rain", "snow and sun " * 20, "goal match"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The texts of each call that needed the model."""
    calls: list[list[str]] = []
    compute = module._compute

    def count(texts: list[str], base_model: Path) -> np.ndarray:
        calls.append(texts)
        return compute(texts, base_model)

    monkeypatch.setattr(module, "_compute", count)
    return calls


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "bfloat16_pays", lambda device: False)


@pytest.mark.usefixtures("float32")
def test_rows_are_the_mean_of_the_last_layer_whatever_the_batch(tiny_base_model: Path):
    rows = features(TEXTS, base_model=tiny_base_model)
    assert rows.shape == (len(TEXTS), 64)
    assert rows.dtype == np.float32
    model, tokenizer = AutoModel.from_pretrained(tiny_base_model).eval(), AutoTokenizer.from_pretrained(tiny_base_model)
    for text, row in zip(TEXTS, rows, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(0).numpy()
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_bfloat16_gives_nearly_the_same_rows_of_length_1(tiny_base_model: Path, monkeypatch: pytest.MonkeyPatch):
    both = []
    for pays in (False, True):
        monkeypatch.setattr(encoder, "bfloat16_pays", lambda device, pays=pays: pays)
        both.append(features(TEXTS, base_model=tiny_base_model))
    assert (both[0] != both[1]).any()
    assert (both[0] * both[1]).sum(axis=1) == pytest.approx(1, abs=1e-2)
    assert np.linalg.norm(both[1], axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("float32")
def test_only_the_first_tokens_count(tiny_base_model: Path):
    start = "rain " * (MAX_TOKENS - 2)  # [CLS] and [SEP] are tokens, too
    texts = [start, start + "goal goal", start[:-5] + "goal"]
    whole, longer, other = features(texts, base_model=tiny_base_model)
    assert longer == pytest.approx(whole, abs=1e-6)
    assert np.abs(other - whole).max() > 1e-4


def test_another_architecture_without_token_types(tmp_path: Path):
    rows = features(TEXTS[:2], base_model=tiny_distilbert(tmp_path / "distilbert", TEXTS))
    assert rows.shape == (2, 64)


def test_a_second_call_computes_only_new_texts(tiny_base_model: Path, run: RunFolder, computed: list[list[str]]):
    first = features(["goal", "vote", "goal"], base_model=tiny_base_model, run=run)
    second = features(["rain", "vote", "goal"], base_model=tiny_base_model, run=run)
    assert computed == [["goal", "vote"], ["rain"]]
    assert (second[[2, 1]] == first[[0, 1]]).all()
    assert (first[0] == first[2]).all()
    written = (run.root / CACHE).stat().st_mtime_ns
    assert (features(["rain", "vote"], base_model=tiny_base_model, run=RunFolder(run.root)) == second[:2]).all()
    assert len(computed) == 2
    assert (run.root / CACHE).stat().st_mtime_ns == written


def test_another_model_computes_again(tmp_path: Path, tiny_base_model: Path, run: RunFolder):
    first = features(["goal"], base_model=tiny_base_model, run=run)
    other = tiny_bert(tmp_path / "other", ["another vocabulary of words"])
    assert np.abs(features(["goal"], base_model=other, run=run) - first).max() > 0.01
    assert (features(["goal"], base_model=tiny_base_model, run=run) == first).all()


@pytest.mark.parametrize("content", [b"", b"not a table", b"PAR1"])
def test_a_damaged_cache_is_made_again(
    tiny_base_model: Path, run: RunFolder, computed: list[list[str]], content: bytes
):
    first = features(["goal"], base_model=tiny_base_model, run=run)
    (run.root / CACHE).write_bytes(content)
    assert (features(["goal"], base_model=tiny_base_model, run=run) == first).all()
    assert features(["goal"], base_model=tiny_base_model, run=run).shape == (1, 64)
    assert len(computed) == 2


def test_without_a_run_folder_nothing_is_kept(tiny_base_model: Path, tmp_path: Path, computed: list[list[str]]):
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        features(["goal"], base_model=tiny_base_model)
    assert len(computed) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_no_texts_need_no_model():
    assert features([], base_model="nobody/knows-this").shape == (0, 0)


def test_what_is_no_encoder_is_an_error(tmp_path: Path):
    with pytest.raises(ModelNotFoundError):
        features(["goal"], base_model=tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ClassifierError):
        features(["goal"], base_model=tmp_path)
