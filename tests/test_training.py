import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from key_words import FAST, LABELS, ODD_CLASSES, TEXTS, VOCABULARY, names, replaced
from tiny_models import tiny_bert

from nbhelpers import encoder as loading
from nbhelpers import training as module
from nbhelpers.classifier import Classifier
from nbhelpers.encoder import token_limit
from nbhelpers.errors import ClassifierError, ConfigError
from nbhelpers.training import TrainingSettings, describe_balance, draw_unlabelled, fit

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
    assert TrainingSettings().steps(texts) == steps


def test_there_are_steps_for_two_passes_over_the_unlabelled_texts():
    settings = TrainingSettings()
    assert settings.steps(200, unlabelled=600, batch_size=8) == 3 * 25 + 2 * 75
    assert settings.steps(160, unlabelled=600) == settings.min_steps
    assert TrainingSettings(batch_size=8).steps(800) == 300


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


def test_texts_without_a_label_are_drawn_at_random_and_no_more_than_wanted():
    texts = [f"text {i}" for i in range(30)]
    drawn = draw_unlabelled(texts, replaced(unlabelled=20))
    assert len(set(drawn)) == 20
    assert (
        drawn
        == draw_unlabelled(texts, replaced(unlabelled=20))
        != draw_unlabelled(texts, replaced(unlabelled=20, seed=1))
    )
    assert [text for text in drawn if text != drawn[3]] == draw_unlabelled(
        [text for text in texts if text != drawn[3]], replaced(unlabelled=19)
    )  # one less to draw from changes no other
    assert sorted(draw_unlabelled(texts, replaced(unlabelled=600))) == sorted(texts)
    assert draw_unlabelled(texts, replaced(unlabelled=0)) == []


def test_what_a_teacher_says_of_unlabelled_texts_is_learnt(bert, monkeypatch):
    steps = []
    monkeypatch.setattr(module, "_probabilities", lambda _, tokens: np.array([[0.0, 1.0, 0.0]] * len(tokens)))
    options = {"classes": ODD_CLASSES, "base_model": bert, "progress": lambda *told: steps.append(told)}
    classifier = fit(TEXTS, LABELS, settings=FAST, unlabelled=["fog", "fog fog"] * 10, **options)
    assert names(classifier, ["fog"]) == [ODD_CLASSES[1]]
    assert (classifier.training["texts"], classifier.training["unlabelled"]) == (len(TEXTS), 20)
    assert steps == [(done, 150) for done in range(1, 151)]  # 50 of the teacher's, told as one training
    assert classifier.training["steps"] == 150


@pytest.mark.parametrize("balance", ["none", "auto"])
def test_a_class_is_as_common_as_the_labels_say_whatever_a_teacher_says(bert, monkeypatch, balance):
    priors = []
    monkeypatch.setattr(module, "_probabilities", lambda _, tokens: np.array([[0.1, 0.9, 0.0]] * len(tokens)))
    monkeypatch.setattr(Classifier, "rescale", lambda _, log_prior: priors.append(log_prior))
    labels = [*ODD_CLASSES[:2] * 10, *ODD_CLASSES[:1] * 20]  # 30, 10 and 0: too balanced for weights
    settings = replaced(min_steps=2, balance=balance)
    fit(["fog"] * 40, labels, classes=ODD_CLASSES, base_model=bert, settings=settings, unlabelled=["fog"] * 40)
    teacher, student = priors
    assert teacher == pytest.approx([0, 0, 0])
    assert student == pytest.approx([np.log(0.75 / (34 / 80)), np.log(0.25 / (46 / 80)), 0])


def test_the_teacher_is_another_classifier_that_knows_the_labels(bert, monkeypatch):
    asked, probabilities = [], module._probabilities
    unlabelled = ["rain", "goal match goal match goal match", "sun rain", "goal"]

    def says(teacher, tokens):
        said = probabilities(teacher, tokens)
        asked.append((teacher, names(teacher, TEXTS), teacher.predict_proba(unlabelled)))
        assert said == pytest.approx(asked[0][2], abs=0.02)  # in the order of the texts, whatever their lengths
        return said

    monkeypatch.setattr(module, "_probabilities", says)
    settings = replaced(min_steps=200)
    made = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=settings, unlabelled=unlabelled)
    [(teacher, said, _)] = asked
    assert np.mean([a == b for a, b in zip(said, LABELS, strict=True)]) > 0.5  # an untrained one: a third
    assert teacher.model is not made.model


def test_no_teacher_is_trained_where_there_is_nothing_to_ask_it(bert, monkeypatch):
    monkeypatch.setattr(module, "_probabilities", lambda *_: pytest.fail("a teacher was asked"))
    made = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=2)).training
    assert (made["unlabelled"], made["steps"]) == (0, 12)  # three passes


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
