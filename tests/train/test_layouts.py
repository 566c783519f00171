"""What the layouts give the model: one prefix, one pass of an image, few logits; and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlavaModel

from config.errors import RecipeError, TrainingError
from train.encode import EncodedRow
from train.objectives import get
from train.scoring import Scorer, check_layouts, shared, split
from train.scoring.families import Qwen2VL

sys.path.insert(0, str(Path(__file__).parent))
from train_helpers import (
    FAMILIES,
    encoded,
    make_model,
    weighted,
)

TOLERANCE = 1e-4
LAYOUTS = ("naive", "shared")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_is_encoded_once_a_batch(family, layout):
    model, seen = make_model(family), []
    tower = model.model.vision_tower if family == "llava" else model.model.visual

    def count(_, args, kwargs):
        grid = kwargs.get("grid_thw")
        seen.append(len(args[0] if grid is None else grid))

    tower.register_forward_pre_hook(count, with_kwargs=True)
    with torch.no_grad():
        Scorer(model, layout)(encoded(family))
    assert seen == [5]  # three files, of which two rows share one, and a crop of each row


class Largest(TorchDispatchMode):
    """Records how often a vocabulary goes into the largest floating tensor of whole ones."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary = vocabulary
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if torch.is_tensor(value) and value.is_floating_point() and value.ndim:
                rows, odd = divmod(value.numel(), self.vocabulary)
                self.rows = self.rows if odd else max(self.rows, rows)
        return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_exist_for_a_chunk_of_response_tokens_only(layout):
    model, rows = make_model("llava", vocabulary=997), encoded("llava")
    assert sum(row.response_tokens for row in rows) > 60
    with Largest(997) as largest:
        weighted(Scorer(model, layout, head_chunk=40)(rows)).backward()
    assert largest.rows == 40  # the head's own weight has 32


def test_only_response_tokens_reach_the_head():
    model, rows, seen = make_model("llava"), encoded("llava"), []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        Scorer(model)(rows)
    assert seen == [sum(row.response_tokens for row in rows)]


def test_the_shared_layout_has_one_prefix_an_image_and_prompt():
    row = encoded("llava", get("symmpo").combinations)[0]
    # prefix 23 = 16 image tokens + 7; responses 5, 3, 8 and 8, 5 with their ends
    assert row.tokens == 23 + 5 + 3 + 8 + 23 + 8 + 5
    assert row.naive_tokens == 5 * 23 + 5 + 3 + 8 + 8 + 5
    model, seen = make_model("llava"), []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    with torch.no_grad():
        Scorer(model)([row])
    assert seen == [(2, 39)]


def test_a_token_sees_the_prefix_and_its_own_response():
    segments = torch.tensor([[0, 0, 1, 1, 2, -1]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(shared.mask(segments, "sdpa", torch.float32), expected[None, None])
    additive = shared.mask(segments, "eager", torch.float16)
    assert torch.equal(additive == 0, expected[None, None])
    assert additive.dtype == torch.float16
    assert torch.isfinite(additive).all()


def test_only_what_stands_behind_the_common_prefix_is_computed_with_a_mask(monkeypatch):
    seen, real = [], split.sdpa_attention_forward

    def record(module, query, key, value, mask, **options):
        seen.append((query.shape[2], key.shape[2], None if mask is None else tuple(mask.shape)))
        return real(module, query, key, value, mask, **options)

    monkeypatch.setattr(split, "sdpa_attention_forward", record)
    model, rows = make_model("llava"), encoded("llava", get("symmpo").combinations)
    with torch.no_grad():
        Scorer(model)(rows)
    # prefixes of 23 and 22 tokens, the longest sequence of 39: see above
    assert seen == [(22, 22, None), (17, 39, (4, 1, 17, 39))] * 2
    seen.clear()
    with torch.no_grad():
        Scorer(model, "naive")(rows)
    assert [query for query, *_ in seen] == [31] * 2  # whole sequences, the model's own mask
    assert split.NAME not in model.config.to_json_string()


def test_mrope_positions_restart_behind_the_prefix():
    model, rows = make_model("qwen2_5_vl"), encoded("qwen2_5_vl")
    group = rows[0].groups[0]
    positions = Qwen2VL(model).prefix_positions(group)
    # "USER: <see>", then 2 x 3 merged patches, then "<seen> describe a b ASSISTANT:"
    assert positions[:, :8].tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2],
        [0, 1, 2, 2, 2, 3, 3, 3],
        [0, 1, 2, 3, 4, 2, 3, 4],
    ]
    assert positions[:, 8:].tolist() == [[5, 6, 7, 8, 9]] * 3
    packed = shared.pack(Qwen2VL(model), [(0, group)], "sdpa")
    behind = packed.inputs["position_ids"][:, 0, len(group.prefix_ids) :]
    restarted = [*range(10, 15), *range(10, 13), *range(10, 18)]  # responses of 5, 3 and 8 tokens
    assert behind.tolist() == [restarted] * 3


def boolean_for_eager(monkeypatch):
    real = shared.mask
    monkeypatch.setattr(shared, "mask", lambda segments, _, dtype: real(segments, "sdpa", dtype))


def no_mask(monkeypatch):
    monkeypatch.setattr(shared, "mask", lambda *_: None)


def plain_causal(monkeypatch):
    real = shared.mask
    monkeypatch.setattr(shared, "mask", lambda segments, *rest: real(segments * 0, *rest))


def plain_positions(monkeypatch):
    monkeypatch.setattr(
        Qwen2VL,
        "prefix_positions",
        lambda _, group: torch.arange(len(group.prefix_ids)).expand(3, -1),
    )


@pytest.mark.parametrize(
    ("family", "attention", "mistake"),
    [
        ("llava", "eager", boolean_for_eager),
        ("llava", "sdpa", no_mask),
        ("llava", "sdpa", plain_causal),
        ("qwen2_5_vl", "sdpa", plain_positions),
        ("qwen3_vl", "sdpa", plain_positions),
    ],
)
def test_the_check_of_the_first_batch_finds_silent_mistakes(
    family, attention, mistake, monkeypatch
):
    model, rows = make_model(family, attention), encoded(family)
    scorers = Scorer(model), Scorer(model, "naive")
    mistake(monkeypatch)
    with pytest.raises(TrainingError, match=r"disagree on row row-\d"):
        check_layouts(*scorers, rows, 1e-2)


def test_the_check_takes_no_number_that_is_none_and_leaves_the_modes():
    model = make_model("llava")
    model.model.vision_tower.eval()
    model.model.language_model.train()
    rows, scorers = encoded("llava"), (Scorer(model), Scorer(model, "naive"))
    scorers[0].train(False)
    model.model.language_model.train()
    check_layouts(*scorers, rows, TOLERANCE)
    assert model.model.language_model.training
    assert not model.model.vision_tower.training
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(TrainingError, match="nan"):
        check_layouts(*scorers, rows, TOLERANCE)


def test_what_would_be_silently_wrong_is_refused(monkeypatch):
    with pytest.raises(RecipeError, match="flex_attention"):
        Scorer(make_model("llava", "flex_attention"))
    sliding = make_model("qwen2_vl")
    text = sliding.config.get_text_config()
    text.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(RecipeError, match="sliding"):
        Scorer(sliding)
    Scorer(sliding, "naive")
    with pytest.raises(RecipeError, match="layout"):
        Scorer(make_model("llava"), "packed")
    rows, scorer = encoded("llava"), Scorer(make_model("llava"))
    with pytest.raises(ValueError, match="one objective"):
        scorer([rows[0], EncodedRow("other", rows[1].groups[:1])])
    with monkeypatch.context() as patched:
        patched.setattr(LlavaModel, "forward", lambda self, input_ids, **kwargs: None)
        with pytest.raises(RecipeError, match=r"5\.18"):
            Scorer(scorer.model)
    scorer.model.config.model_type = "linear"
    with pytest.raises(RecipeError, match="'linear'"):
        Scorer(scorer.model)
