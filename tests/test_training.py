import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from key_words import FAST, LABELS, LONG, ODD_CLASSES, TEXTS, VOCABULARY, names, replaced
from tiny_models import tiny_bert

from nbhelpers import encoder as loading
from nbhelpers import training as module
from nbhelpers.encoder import token_limit
from nbhelpers.errors import ClassifierError, ConfigError
from nbhelpers.training import TrainingSettings, describe_balance, fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def no_bfloat16(monkeypatch):
    monkeypatch.setattr(loading, "fastest_dtype", lambda: torch.float32)


@pytest.mark.usefixtures("no_bfloat16")
def test_equal_seeds_give_equal_classifiers_and_other_seeds_others(bert):
    def probabilities(seed):
        settings = replaced(min_steps=8, seed=seed)
        return fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=settings).predict_proba(TEXTS)

    first = probabilities(1)
    np.random.seed(123)
    random.seed(123)
    torch.manual_seed(123)
    assert (probabilities(1) == first).all()
    assert abs(probabilities(2) - first).max() > 1e-3


def test_random_states_outside_are_left_alone(bert):
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    fit(TEXTS[:4], LABELS[:4], classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=2)).predict_proba(
        ["x"]
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.parametrize("n_classes", [2, 20, 77])
def test_any_number_of_classes_also_those_without_a_text(bert, n_classes):
    classes = [f"class {i}" for i in range(n_classes)]
    labels = [classes[i % 2] for i in range(20)]
    texts = ["goal match" if i % 2 else "rain sun" for i in range(20)]
    classifier = fit(texts, labels, classes=classes, base_model=bert, settings=FAST)
    assert classifier.predict_proba(texts).shape == (20, n_classes)
    assert names(classifier, texts) == labels


@pytest.mark.parametrize("balance", ["auto", "none", "weights"])
def test_one_class_only_and_fewer_texts_than_a_batch(bert, balance):
    classifier = fit(
        ["goal", ""], ["0", "0"], classes=ODD_CLASSES, base_model=bert, settings=replaced(balance=balance, min_steps=30)
    )
    assert names(classifier, ["match", ""]) == ["0", "0"]
    assert np.isfinite(classifier.predict_proba(["match"])).all()


def test_weights_raise_a_rare_class(bert):
    texts, labels = ["goal"] * 30, ["0"] * 27 + [ODD_CLASSES[1]] * 3  # nothing but the share tells the two apart
    rare = {}
    for balance in ("none", "weights"):
        settings = replaced(balance=balance, min_steps=80)
        classifier = fit(texts, labels, classes=ODD_CLASSES, base_model=bert, settings=settings)
        rare[balance] = classifier.predict_proba(["goal"])[0, 1]
    assert rare["none"] == pytest.approx(0.1, abs=0.07)
    assert rare["weights"] == pytest.approx(15 / 42, abs=0.12)  # 3 texts at 5 times the weight against 27


def test_weights_do_not_raise_a_class_without_texts(bert):
    texts, labels = ["goal"] * 30, ["0"] * 27 + [ODD_CLASSES[1]] * 3
    none, weighted = (
        fit(texts, labels, classes=ODD_CLASSES, base_model=bert, settings=replaced(balance=balance, min_steps=8))
        for balance in ("none", "weights")
    )
    odds = [classifier.predict_proba(["goal"])[0] for classifier in (none, weighted)]
    assert odds[1][2] / odds[1][0] == pytest.approx(odds[0][2] / odds[0][0], rel=1e-3)
    assert odds[1][1] / odds[1][0] == pytest.approx(5 * odds[0][1] / odds[0][0], rel=1e-3)


def test_the_head_learns_faster_and_only_matrices_decay(bert):
    model, _ = module._new_model(bert, ODD_CLASSES)
    settings = TrainingSettings(learning_rate=1e-4, head_learning_rate=1e-3, weight_decay=0.01)
    groups = module._parameter_groups(model, settings)
    how = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: how[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["classifier.weight"] == (1e-3, 0.01)
    assert found["classifier.bias"] == (1e-3, 0.0)
    assert found["bert.pooler.dense.weight"] == (1e-4, 0.01)
    assert found["bert.encoder.layer.0.attention.self.query.weight"] == (1e-4, 0.01)
    assert found["bert.encoder.layer.0.attention.self.query.bias"] == (1e-4, 0.0)
    assert found["bert.embeddings.LayerNorm.weight"] == (1e-4, 0.0)


def test_balance_table_by_hand():
    table = describe_balance({"many": 90, "few": 10, "no": 0}, "weights")
    assert table["class"].tolist() == ["many", "few", "no"]
    assert table["texts"].tolist() == [90, 10, 0]
    assert table["share"].tolist() == [0.9, 0.1, 0.0]
    assert table["weight"].tolist()[:2] == pytest.approx([100 / 140, 500 / 140])  # 9 to 1, capped at 5 to 1
    assert np.isnan(table["weight"][2])
    assert describe_balance({"a": 20, "b": 10}, "weights")["weight"].tolist() == pytest.approx([0.75, 1.5])
    assert describe_balance({"a": 90, "b": 10}, "none")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("counts", "weighted"), [((79, 10), False), ((80, 10), True), ((80, 10, 0), True), ((9, 0), False)]
)
def test_auto_weights_from_eight_to_one_among_the_classes_present(counts, weighted):
    table = describe_balance({str(i): n for i, n in enumerate(counts)}, "auto")
    assert (table["weight"].dropna() != 1).any() == weighted


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=2, max_size=20), st.sampled_from(["auto", "none", "weights"]))
def test_mean_weight_of_a_text_is_one_and_no_class_counts_more_than_five_times_another(counts, balance):
    table = describe_balance({str(i): n for i, n in enumerate(counts)}, balance)
    present = table[table["texts"] > 0]
    assert table["weight"].isna().tolist() == [n == 0 for n in counts]
    if len(present):
        assert (present["weight"] * present["texts"]).sum() == pytest.approx(present["texts"].sum())
        assert present["weight"].max() <= 5 * present["weight"].min() * (1 + 1e-9)
        assert present.sort_values("texts")["weight"].is_monotonic_decreasing


def test_unknown_balance_is_refused(bert):
    with pytest.raises(ConfigError, match="'smote'"):
        describe_balance({"a": 1}, "smote")
    with pytest.raises(ConfigError, match="'smote'"):
        fit(["a"], ["0"], classes=ODD_CLASSES, base_model=bert, settings=TrainingSettings(balance="smote"))


@pytest.mark.parametrize(("texts", "steps"), [(1, 150), (40, 150), (800, 150), (1600, 300), (100_000, 3000)])
def test_steps_have_a_floor_and_a_cap(texts, steps):
    assert TrainingSettings().steps(texts, batch_size=16) == steps


def test_steps_are_told_and_make_three_passes(bert):
    told = []
    options = {"classes": ODD_CLASSES, "base_model": bert, "settings": replaced(min_steps=2)}
    made = fit(TEXTS, LABELS, progress=lambda *step: told.append(step), **options).training
    steps = 3 * -(-len(TEXTS) // 16)
    assert told == [(done, steps) for done in range(1, steps + 1)]
    assert (made["steps"], made["texts"]) == (steps, len(TEXTS))


def test_long_texts_come_in_smaller_batches_and_so_in_more_steps(bert):
    options = {"classes": ODD_CLASSES[:2], "base_model": bert, "settings": replaced(min_steps=2)}
    short, long = (fit([text] * 40, ODD_CLASSES[:2] * 20, **options) for text in ("goal", LONG))
    assert short.training["steps"] == 3 * 3  # passes of batches of 16
    assert long.training["steps"] == 3 * 5  # of 8: 2,048 tokens, 256 of each text


@pytest.mark.parametrize(
    ("texts", "labels", "classes", "message"),
    [
        ([], [], ["a", "b"], "no labelled texts"),
        (["x"], ["a", "b"], ["a", "b"], "1 texts and 2 labels"),
        (["x"], [None], ["a", "b"], "None"),
        (["x"], ["c"], ["a", "b"], "'c'"),
        (["x"], ["a"], ["a"], "at least two"),
        (["x"], ["a"], ["a", "a"], "each once"),
    ],
)
def test_impossible_train_sets_are_refused(bert, texts, labels, classes, message):
    with pytest.raises(ClassifierError, match=message):
        fit(texts, labels, classes=classes, base_model=bert, settings=FAST)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ClassifierError, match=r"training\.model_path"):
        fit(["x"], ["a"], classes=["a", "b"], base_model=tmp_path, settings=FAST)
    with pytest.raises(ClassifierError, match=r"training\.model_path"):
        token_limit(tmp_path)


def test_a_classifier_of_other_classes_can_be_the_base(bert, tmp_path):
    saved = tmp_path / "saved"
    fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=2)).save(saved)
    base = fit(
        TEXTS,
        [f"is {x}" for x in LABELS],
        classes=[f"is {x}" for x in [*ODD_CLASSES, "new"]],
        base_model=saved,
        settings=FAST,
    )
    assert names(base, ["goal team"]) == ["is 0"]


def test_a_label_counts_as_far_as_it_is_believed(bert):
    """Half of the "goal" texts are labelled as the second class; targets that do not believe those undo it."""
    texts, labels = ["goal", "goal", "market"] * 20, [ODD_CLASSES[0], ODD_CLASSES[1], ODD_CLASSES[1]] * 20
    settings = replaced(min_steps=60)
    bare = fit(texts, labels, classes=ODD_CLASSES, base_model=bert, settings=settings).predict_proba(["goal"])[0]
    targets = np.tile([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1.0, 0]], (20, 1))
    soft = fit(texts, labels, classes=ODD_CLASSES, base_model=bert, settings=settings, targets=targets)
    assert bare[0] == pytest.approx(0.5, abs=0.15)
    assert soft.predict_proba(["goal"])[0, 0] == pytest.approx(0.95, abs=0.05)


def test_contrastive_loss_by_hand():
    right, up = [1.0, 0.0], [0.0, 2.0]  # at right angles; length does not count
    loss = module._contrastive_loss(torch.tensor([right, right, up]), torch.tensor([0, 0, 1]))
    # Both texts of class 0 have one partner, at similarity 1 / 0.1, beside one other text at 0; the third has none.
    assert loss.item() == pytest.approx(np.log(np.exp(10) + 1) - 10, abs=1e-6)
    apart = module._contrastive_loss(torch.tensor([right, up, up]), torch.tensor([0, 0, 1]))
    # 0 and 1: the partner at 0; for 0 the other is at 0, too, for 1 it is at 10.
    assert apart.item() == pytest.approx((np.log(2) + np.log(1 + np.exp(10))) / 2, abs=1e-5)
    assert module._contrastive_loss(torch.tensor([right, up]), torch.tensor([0, 1])).item() == 0
    assert module._contrastive_loss(torch.tensor([right]), torch.tensor([0])).item() == 0


@pytest.mark.parametrize("other_words", [0, 1500])
def test_a_large_table_of_words_stays_and_the_rest_learns(other_words, tmp_path):
    from transformers import AutoModel

    base = tiny_bert(tmp_path / "bert", [*VOCABULARY, " ".join(f"word{i}" for i in range(other_words))])
    classifier = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=base, settings=replaced(min_steps=3))
    before, after = AutoModel.from_pretrained(base), classifier.model.base_model
    same = torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    assert same == (other_words > 0)
    query = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before.state_dict()[query], after.state_dict()[query])
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())
