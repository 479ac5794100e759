import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from key_words import FAST, LABELS, LONG, ODD_CLASSES, TEXTS, VOCABULARY, WORDS, keyword_texts, log_to, names, replaced
from tiny_models import tiny_bert, tiny_distilbert, tiny_encoder

from nbhelpers import classifier as module
from nbhelpers import encoder as loading
from nbhelpers.classifier import Classifier
from nbhelpers.encoder import token_lengths
from nbhelpers.errors import ClassifierError
from nbhelpers.training import fit

pytestmark = pytest.mark.usefixtures("one_thread")


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


def encoder(kind, folder):
    made = {"Bert": tiny_bert, "DistilBert": tiny_distilbert}
    return made[kind](folder, VOCABULARY) if kind in made else tiny_encoder(kind, folder, VOCABULARY)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "Deberta", "DebertaV2", "ModernBert", "NomicBert"])
def test_any_encoder_learns_key_words_and_survives_a_round_trip(kind, tmp_path):
    base = encoder(kind, tmp_path / "base")
    classifier = fit(
        TEXTS, LABELS, classes=ODD_CLASSES, base_model=base, settings=replaced(min_steps=200, learning_rate=3e-3)
    )
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


def test_rescaled_probabilities_are_those_of_the_saved_folder_in_plain_transformers(bert, tmp_path):
    from transformers import pipeline

    classifier = fit(TEXTS, LABELS, classes=ODD_CLASSES, base_model=bert, settings=replaced(min_steps=20))
    before = np.log(classifier.predict_proba(TEXTS))
    classifier.rescale(temperature=2.0, log_prior=[0.5, 0.0, -1.0])
    raised = np.exp(before / 2 + np.array([0.5, 0.0, -1.0]))
    expected = raised / raised.sum(axis=1, keepdims=True)
    assert classifier.predict_proba(TEXTS) == pytest.approx(expected, abs=1e-5)
    classifier.save(tmp_path / "saved")
    answers = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)(TEXTS[:5])
    plain = [
        [next(one["score"] for one in answer if one["label"] == name) for name in ODD_CLASSES] for answer in answers
    ]
    assert np.array(plain) == pytest.approx(expected[:5], abs=1e-4)


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


def test_importing_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, nbhelpers.classifier; sys.exit(bool({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
