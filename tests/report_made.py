"""What report.html is made from, without a run: make_facts(["ham", "spam"])."""

import pandas as pd

from nbhelpers.config_file import parse_config
from nbhelpers.evaluation import evaluate
from nbhelpers.report_page import Facts
from nbhelpers.running_costs import Making, Rate


def make_facts(classes: list[str], *, everything: bool = True, note: str = "A note.") -> Facts:
    """40 test texts, of which every 5th is labelled otherwise than by the LLM; nothing else was predicted."""
    asked = {"classes": classes, "desc": f"Sort. {note}", "predict_on_whole_set_at_the_end": everything}
    models = {"large_model": "big", "small_model": "little"}
    config = parse_config({"api": models, "classification": asked, "path": {"input_dir": "x", "output_dir": "y"}})
    ids = [f"{i:016x}" for i in range(40)]
    llm = [classes[i % len(classes)] for i in range(40)]
    said = [classes[(i + (i % 5 == 0)) % len(classes)] for i in range(40)]
    found = evaluate(llm, said, classes=classes)
    row = {
        "iteration": 1,
        "train_size": 3,
        "test_size": 40,
        "failed_test_labels": 0,
        **found.to_dict(),
        "lower_bound": 0.6,
        "looks": 1,
        "seconds": 12.0,
    }
    texts = [f"text {i} {note}" for i in range(40)]
    test = pd.DataFrame({"chunk_id": ids, "text": texts, "label": llm, "confidence": None, "reply": f"As {note}"})
    predictions = pd.DataFrame(
        {
            "chunk_id": ids,
            "text": texts,
            "label": llm,
            "label_source": "LLM",
            "predicted_label": said,
            "probability": [0.5 + i / 100 for i in range(40)],
        }
    )
    return Facts(
        name="runs/x",
        config=config,
        report={
            "status": "max_iters",
            "target": 0.9,
            "stop_rule": "lower_bound",
            "iterations": [row],
            "final": {"classifier": "classifier_1"},
            "claim": {"lower_bound": 0.6, "confidence": 0.95, "looks": 1},
            "truth": None,
            "confidence": {
                "thresholds": [
                    {
                        "wanted": 0.95,
                        "confidence": 0.7,
                        "precision": 0.96,
                        "precision_low": 0.8,
                        "precision_high": 0.99,
                        "undecided_share": 0.25,
                    }
                ]
            },
            "llm": {"calls": 43, "failed": 0, "prompt_tokens": 9, "completion_tokens": 9, "cost_usd": None},
            "ingest": {"documents": 1, "chunks": 50, "duplicates": 0, "skipped": 0},
            "added_since_draw": 0,
            "notes": [note],
            "config": {"classification": {"desc": note}},
            "versions": {"nbhelpers": "0.1.0"},
        },
        rules=f"1. {note}",
        train=pd.DataFrame({"label": classes[:2], "source": ["small", "human"]}),
        test=test,
        predictions=predictions,
        truth={},
        training={"versions": {"torch": "2"}},
        llms={"large": Rate("big", 40, None, 2.0, 4), "small": None},
        classifier=Rate("classifier_1", 40, 0.0, 0.01),
        making=Making(None, 30.0, 20.0),
        calls_between=("2026-01-02T03:04:05.678+00:00", "2026-01-02T04:05:06.789+00:00"),
        hashes={"chunks.parquet": "ab" * 32},
    )
