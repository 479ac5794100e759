import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SOME_WORDS, tiny_bert, tiny_distilbert, tiny_encoder

from nbhelpers import classifier as module
from nbhelpers import encoder as loading
from nbhelpers.classifier import Classifier, TrainingSettings, describe_balance, fit
from nbhelpers.encoder import token_lengths, token_limit
from nbhelpers.errors import ClassifierError, ConfigError

ODD_CLASSES = ["0", 'say "né", twice', "日本, 語"]
WORDS = {"0": "goal match team", 'say "né", twice': "market bank share", "日本, 語": "rain sun wind"}
# Tiny random encoders need high rates; then few steps are enough.
FAST = TrainingSettings(min_steps=100, learning_rate=5e-3, head_learning_rate=5e-3)
LONG = "goal " * 700 + "rain " * 20


def keyword_texts(n, *, seed=0):
    rng = random.Random(seed)
    labels = [rng.choice(ODD_CLASSES) for _ in range(n)]
    texts = [
        " ".join([*rng.sample(SOME_WORDS, rng.randint(1, 8)), rng.choice(WORDS[label].split())]) for label in labels
    ]
    return texts, labels


VOCABULARY = [" ".join(WORDS.values())]
TEXTS, LABELS = keyword_texts(60)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from threads, which wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"), VOCABULARY)


@pytest.fixture(scope="module")
def trained(bert):
    return fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=FAST)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "classifiers" / "classifier_1"
    trained.save(folder)
    return folder


@pytest.fixture
def no_bfloat16(monkeypatch):
    monkeypatch.setattr(loading, "fastest_dtype", lambda: torch.float32)


def replaced(**changes):
    return replace(FAST, **changes)


def log_to(calls):
    return lambda done, total: calls.append((done, total))


def names(classifier, texts):
    return [classifier.classes[i] for i in classifier.predict_proba(texts).argmax(axis=1)]


def encoder(kind, folder):
    made = {"Bert": tiny_bert, "DistilBert": tiny_distilbert}
    return made[kind](folder, VOCABULARY) if kind in made else tiny_encoder(kind, folder, VOCABULARY)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "DebertaV2", "ModernBert"])
def test_any_encoder_learns_key_words_and_survives_a_round_trip(kind, tmp_path):
    base = encoder(kind, tmp_path / "base")
    classifier = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=base, settings=FAST)
    texts, labels = keyword_texts(40, seed=1)
    assert np.mean([a == b for a, b in zip(names(classifier, texts), labels, strict=True)]) > 0.9
    classifier.save(tmp_path / "saved")
    texts += [LONG, ""]
    before, after = classifier.predict_proba(texts), Classifier.load(tmp_path / "saved").predict_proba(texts)
    assert after == pytest.approx(before, abs=1e-5)
    assert before.sum(axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)


def test_plain_transformers_gives_the_same_classes_and_probabilities(trained, saved):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = [*keyword_texts(30, seed=2)[0], LONG, "", "  \n", "日本 ¿qué? 🙂"]
    model = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    plain = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            plain.append(model(**inputs).logits.softmax(-1)[0].numpy())
    assert trained.predict_proba(texts) == pytest.approx(np.array(plain), abs=1e-3)
    assert model.config.id2label == dict(enumerate(ODD_CLASSES))
    assert model.config.label2id == {name: i for i, name in enumerate(ODD_CLASSES)}
    assert model.config.problem_type == "single_label_classification"
    assert model.dtype == torch.float32
    assert tokenizer.model_max_length == 512
    assert [file.name for file in saved.glob("*.safetensors")] == ["model.safetensors"]


def test_transformers_pipeline_gives_the_same_classes(trained, saved):
    from transformers import pipeline

    texts = [*keyword_texts(10, seed=3)[0], LONG]
    answers = pipeline("text-classification", str(saved))(texts, truncation=True)
    assert [answer["label"] for answer in answers] == names(trained, texts)


def test_a_text_over_the_limit_is_cut_at_its_end(bert):
    classifier = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(max_tokens=12))
    head, tail = "goal " * 10, "rain " * 30  # 10 words and two special tokens are all it reads
    whole, cut, swapped = classifier.predict_proba([head + tail, head, tail + head])
    assert whole == pytest.approx(cut, abs=1e-6)
    assert whole.argmax() != swapped.argmax()


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


def test_nothing_is_printed_and_transformers_logging_is_as_before(bert, tmp_path, capfd):
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    classifier = fit(TEXTS[:4], LABELS[:4], classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=2))
    classifier.save(tmp_path / "saved")
    Classifier.load(tmp_path / "saved").predict_proba([LONG])
    token_lengths([LONG], bert)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


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
    ("counts", "weighted"), [((29, 10), False), ((30, 10), True), ((30, 10, 0), True), ((9, 0), False)]
)
def test_auto_weights_from_three_to_one_among_the_classes_present(counts, weighted):
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


def test_progress_counts_every_step_and_every_text(bert):
    steps, done = [], []
    classifier = fit(
        TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=12), progress=log_to(steps)
    )
    classifier.predict_proba(TEXTS * 5, progress=log_to(done))
    assert steps == [(i, 12) for i in range(1, 13)]
    assert done[-1] == (300, 300)
    assert [n for n, _ in done] == sorted(n for n, _ in done)
    assert classifier.predict_proba([]).shape == (0, 3)


def test_many_texts_keep_their_order_over_batches_and_blocks(trained, monkeypatch):
    texts = [*keyword_texts(150, seed=4)[0], "", LONG, *keyword_texts(20, seed=5)[0]]
    one_by_one = np.concatenate([trained.predict_proba([text]) for text in texts])
    monkeypatch.setattr(loading, "TEXTS_PER_BLOCK", 37)
    monkeypatch.setattr(loading, "TOKENS_PER_BATCH", 50)
    monkeypatch.setattr(loading, "TEXTS_PER_BATCH", 5)
    assert trained.predict_proba(texts) == pytest.approx(one_by_one, abs=1e-5)


def test_bfloat16_never_changes_a_decision(bert, monkeypatch):
    # Half trained, so that some texts are clear and some are not.
    half = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=30))
    first, second, third = (words.split() for words in WORDS.values())
    texts = [f"{a} {b} {c}" for a in first for b in second for c in [*third, "the"]]
    exact = half.predict_proba(texts)
    monkeypatch.setattr(loading, "fastest_dtype", lambda: torch.bfloat16)
    assert (half.predict_proba(texts) == exact).all()  # so few texts are worth float32
    monkeypatch.setattr(module, "EXACT_TEXTS", 0)
    quick = half.predict_proba(texts)
    assert (quick.argmax(axis=1) == exact.argmax(axis=1)).all()
    assert quick == pytest.approx(exact, abs=0.03)
    monkeypatch.setattr(module, "UNSURE", 0.0)
    raw = half.predict_proba(texts)
    assert abs(raw - exact).max() > 1e-4  # it is computed in bfloat16, ...
    margins = np.diff(np.sort(raw, axis=1)[:, -2:], axis=1)[:, 0]
    monkeypatch.setattr(module, "UNSURE", np.median(margins))
    mixed, close = half.predict_proba(texts), margins < np.median(margins)
    assert mixed[close] == pytest.approx(exact[close], abs=1e-6)  # ... and the close ones again in float32
    assert (mixed[~close] == raw[~close]).all()


def test_training_json_tells_how_it_was_made_and_whether_it_is_up_to_date(trained, saved):
    made = json.loads((saved / "training.json").read_text("utf-8"))
    assert made == trained.training == Classifier.load(saved).training
    assert made["settings"] == FAST.fingerprint() != replaced(seed=1).fingerprint()
    assert (made["texts"], made["steps"]) == (60, 100)
    assert made["dtype"] in ("bfloat16", "float32")
    assert set(made["versions"]) == {"python", "torch", "transformers"}
    assert made["seconds"] > 0


def test_saving_replaces_the_old_folder_whole_and_leaves_nothing_beside_it(trained, tmp_path):
    folder = tmp_path / "classifier_1"
    (tmp_path / ".classifier_1.part").mkdir()  # a killed run's
    folder.mkdir()
    (folder / "stale.txt").write_text("x")
    trained.save(folder)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["classifier_1"]
    assert names(Classifier.load(folder), TEXTS) == names(trained, TEXTS)


def test_a_failed_save_leaves_the_old_folder(trained, tmp_path, monkeypatch):
    folder = tmp_path / "classifier_1"
    trained.save(folder)
    monkeypatch.setattr(trained.tokenizer, "save_pretrained", full_disk)
    with pytest.raises(ClassifierError, match="No space left"):
        trained.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier_1"]
    assert Classifier.load(folder).classes == ODD_CLASSES


def full_disk(*_args, **_options):
    raise OSError(28, "No space left on device")


def test_loading_what_is_no_classifier_says_so(bert, saved, tmp_path):
    with pytest.raises(ClassifierError, match="there is no classifier in"):
        Classifier.load(tmp_path / "nowhere")
    with pytest.raises(ClassifierError, match="no trained head"):
        Classifier.load(bert)
    damaged = shutil.copytree(saved, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ClassifierError, match="damaged"):
        Classifier.load(damaged)


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


def test_a_classifier_of_other_classes_can_be_the_base(saved):
    base = fit(
        TEXTS,
        [f"is {x}" for x in LABELS],
        classes=[f"is {x}" for x in [*ODD_CLASSES, "new"]],
        base_model=saved,
        settings=FAST,
    )
    assert names(base, ["goal team"]) == ["is 0"]


def test_importing_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, nbhelpers.classifier; sys.exit(bool({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
