import base64
import json
import re
from xml.etree import ElementTree

from tasks.training import (
    SCORES,
    checkpoint_page,
    comparison_page,
    losses_page,
    read_metrics,
)

LINES = [
    {"step": 1, "loss": 2.0, "accuracies/a_over_b": 0.5, "speed/tokens_per_s": 9.0},
    {"step": 2, "loss": 1.0, "accuracies/a_over_b": 0.75, "speed/tokens_per_s": 9.0},
]


def test_the_page_holds_its_curves_and_the_newest_values():
    page = losses_page(LINES)
    pictures = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)
    assert len(pictures) == 2
    assert "a over b" not in page.split("| |")[0]  # one accuracy: no legend is needed
    for picture in pictures:
        ElementTree.fromstring(base64.b64decode(picture))
    assert "| loss | 2 | 1 |" in page
    assert "| accuracies/a_over_b | 0.5 | 0.75 |" in page
    assert "tokens_per_s" not in page


def test_there_is_no_page_before_the_first_step(tmp_path):
    assert losses_page(read_metrics(tmp_path / "metrics.jsonl")) is None


def test_a_half_written_line_waits_for_the_next_look(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + json.dumps(LINES[1])[:20])
    assert read_metrics(path) == LINES[:1]


def test_the_comparison_shows_both_sides_and_examples():
    scores = dict.fromkeys(SCORES, 40.0)
    page = comparison_page({
        "scenes": 200,
        "before": scores,
        "after": {**scores, "chair_s": 1.25, "others": None},
        "examples": [{"objects": ["red cat"], "before": "A dog.", "after": "A cat."}],
    })  # fmt: skip
    assert f"| {SCORES['chair_s']} | 40.0 | 1.2 |" in page
    assert f"| {SCORES['others']} | 40.0 | - |" in page
    assert "- before: A dog." in page


def test_the_checkpoint_page_names_what_was_made():
    page = checkpoint_page({
        "recipe": {"name": "small"}, "checkpoint": "/runs/c", "model": "/runs/model", "steps": 4,
        "rows": 10, "seed": 0, "recipe_digest": "a", "dataset": "d", "trains": {}, "refused": {},
    })  # fmt: skip
    assert "`/runs/model`" in page
    assert "refused rows: none" in page


def test_the_scores_are_those_of_the_miniature_world():
    from dataclasses import fields

    from miniature.scoring import Scores

    assert list(SCORES) == [field.name for field in fields(Scores)]
