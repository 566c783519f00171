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

from train.objectives import Combination, get
from train.scoring import Scorer, check_layouts, unused_parameters

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
    weighted,
)

TOLERANCE = 1e-4
LAYOUTS = ("naive", "shared")


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
