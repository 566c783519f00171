"""Both layouts against transformers' own forward and against each other, values and gradients."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from config.errors import RecipeError, TrainingError
from train.encode import EncodedRow
from train.objectives import Combination, get
from train.scoring import Scorer, check_layouts, shared, unused_parameters
from train.scoring.families import Qwen2VL

sys.path.insert(0, str(Path(__file__).parent))
from train_helpers import (
    ALL,
    FAMILIES,
    FILES,
    ROWS,
    VOCABULARY,
    encoded,
    make_encoder,
    make_model,
    make_processor,
)

TOLERANCE = 1e-4
LAYOUTS = ("naive", "shared")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weighted(scores):
    """A scalar in which every log-probability has a weight of its own."""
    return sum(
        (k + 1) * (values * torch.tensor([1.0, -0.5])).sum()
        for k, values in enumerate(scores.values())
    )


def gradients(model, layout, rows):
    model.zero_grad()
    weighted(Scorer(model, layout, head_chunk=7)(rows)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(some, other):
    assert some.keys() == other.keys()
    return max((some[name] - other[name]).abs().max().item() for name in some)


def by_transformers(model, family, row, which):
    """One response scored as anyone would: the whole conversation through the whole model."""
    encoder, processor = make_encoder(family), make_processor(family)
    prompt = encoder.prompt_text(row.prompt, with_image=which.image != "none")
    ids = len(row.responses[which.response].split()) + 1
    text = f"{prompt} {row.responses[which.response]}</s>"
    if which.image == "none":
        inputs = processor.tokenizer(text, return_tensors="pt")
    else:
        image = Image.open(io.BytesIO(FILES[row.images[which.image]]))
        inputs = processor(text=[text], images=[image], return_tensors="pt")
    logits = model(**inputs).logits[0].log_softmax(-1)
    targets = inputs["input_ids"][0, -ids:]
    return logits[-ids - 1 : -1].gather(1, targets[:, None]).sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_score_as_transformers_does(family):
    model, rows = make_model(family), encoded(family)
    with torch.no_grad():
        scores = {layout: Scorer(model, layout)(rows) for layout in LAYOUTS}
        for which in [which for which in ALL if which.image != "crop"]:
            for number, row in enumerate(ROWS):
                expected = by_transformers(model, family, row, which).item()
                for layout in LAYOUTS:
                    found = scores[layout][which][number].item()
                    assert found == pytest.approx(expected, abs=TOLERANCE), (layout, which)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree_in_values_and_gradients(family, attention):
    model, rows = make_model(family, attention), encoded(family)
    naive, packed = Scorer(model, "naive"), Scorer(model)
    assert check_layouts(packed, naive, rows, TOLERANCE) < TOLERANCE
    found = {layout: gradients(model, layout, rows) for layout in LAYOUTS}
    assert max(g.abs().max() for g in found["naive"].values()) > 1
    # weights up to 8 and sums over all responses: the tolerance is of the largest gradient
    scale = max(1.0, max(g.abs().max().item() for g in found["naive"].values()))
    assert largest_difference(found["naive"], found["shared"]) < TOLERANCE * scale
    assert {name for name, _ in model.named_parameters()} - set(found["shared"]) == set(
        unused_parameters(model)
    )


def test_llava_leaves_its_last_vision_layer_unused():
    unused = unused_parameters(make_model("llava"))
    assert any("encoder.layers.2." in name for name in unused)
    assert not any("encoder.layers.1." in name for name in unused)
    assert any("post_layernorm" in name for name in unused)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_scores_the_same_whatever_batch_it_is_in(family, layout):
    scorer, rows = Scorer(make_model(family), layout), encoded(family)
    with torch.no_grad():
        together, alone = scorer(rows), [scorer([row]) for row in rows]
    for which, values in together.items():
        for number, value in enumerate(values):
            assert value.item() == pytest.approx(alone[number][which].item(), abs=TOLERANCE)


def test_rows_of_text_alone_are_scored():
    only = [Combination("none", "chosen"), Combination("none", "rejected")]
    for family in ("llava", "qwen2_5_vl"):
        model, rows = make_model(family), encoded(family, only)
        assert check_layouts(Scorer(model), Scorer(model, "naive"), rows, TOLERANCE) < TOLERANCE


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


def test_what_would_be_silently_wrong_is_refused():
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
    scorer.model.config.model_type = "linear"
    with pytest.raises(RecipeError, match="'linear'"):
        Scorer(scorer.model)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_gradient_checkpointing_changes_nothing_but_memory(family):
    model, rows = make_model(family), encoded(family)
    plain, calls = gradients(model, "shared", rows), []
    layer = model.model.language_model.layers[0].self_attn
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    again = gradients(model, "shared", rows)
    assert len(calls) == 4  # with and without an image, forward and once more in the backward pass
    scale = max(g.abs().max().item() for g in plain.values())
    assert largest_difference(plain, again) < TOLERANCE * scale


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_a_lora_adapter_works_through_the_scorer(family):
    model, rows = make_model(family), encoded(family)
    with torch.no_grad():
        bare = Scorer(model)(rows)
    adapter = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    wrapped = get_peft_model(model, adapter)
    scorer = Scorer(wrapped)
    assert check_layouts(scorer, Scorer(wrapped, "naive"), rows, TOLERANCE) < TOLERANCE
    with torch.no_grad(), wrapped.disable_adapter():
        off = scorer(rows)
    adapted = scorer(rows)
    for which in ALL:
        assert torch.allclose(off[which], bare[which], atol=TOLERANCE)
        assert (adapted[which] - bare[which]).abs().max() > 1e-2
    weighted(adapted).backward()
    unused = set(unused_parameters(wrapped))
    for name, parameter in wrapped.named_parameters():
        learns = "lora" in name and name not in unused
        assert (parameter.grad is not None) == learns, name


def test_bf16_scores_are_fp32_and_the_ratio_at_step_zero_is_zero():
    policy, rows = make_model("llava").bfloat16(), encoded("llava")
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        found, base = Scorer(policy)(rows), Scorer(reference)(rows)
    for which in ALL:
        assert found[which].dtype == torch.float32
        assert torch.equal(found[which], base[which])


def test_scores_feed_an_objective():
    objective = get("symmpo")
    model, rows = make_model("llava"), encoded("llava", objective.combinations)
    scores = Scorer(model)(rows)
    terms = objective.terms(scores, {which: value.detach() for which, value in scores.items()})
    assert terms["loss"].tolist() == pytest.approx([2.7726, 2.7726], abs=1e-4)
    terms["loss"].mean().backward()
    assert model.lm_head.weight.grad.abs().max() > 0
    assert len(VOCABULARY) == model.lm_head.out_features
