"""What differs between model families: positions, image inputs, layers that take no part.

A family is one small class. Models are transformers' own: an outer module with `model` and `lm_head`,
bare or inside PEFT's wrapper.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from config.errors import RecipeError
from train.encode import Group


class Llava:
    """One-dimensional positions; every image has the same number of tokens."""

    image_inputs: tuple[str, ...] = ("pixel_values",)
    axes = 1

    def __init__(self, base: Any) -> None:
        self.base = base

    def prefix_positions(self, group: Group) -> Tensor:
        """int64 [axes, P]: the positions of a group's prefix by itself."""
        return torch.arange(len(group.prefix_ids))[None]

    def position_ids(self, positions: Tensor) -> Tensor:
        """From [axes, sequences, time] to what the model takes."""
        return positions[0]

    def own_positions(self, groups: list[Group], ids: Tensor) -> dict[str, Tensor]:
        """What the model needs to find the positions itself; ids is [sequences, time]."""
        return {}

    def unused(self) -> list[nn.Module]:
        """Modules of the vision tower behind the layer the features are taken from."""
        tower = self.base.model.vision_tower
        tower = getattr(tower, "vision_model", tower)
        layers = tower.encoder.layers
        chosen = self.base.config.vision_feature_layer
        chosen = [chosen] if isinstance(chosen, int) else chosen
        # hidden_states[0] are the embeddings, hidden_states[k] what layer k - 1 gives
        used = max(layer if layer >= 0 else len(layers) + 1 + layer for layer in chosen)
        behind = [getattr(tower, name, None) for name in ("post_layernorm", "head")]
        return [*layers[used:], *(module for module in behind if module is not None)]


class Qwen2VL:
    """Three-dimensional positions (mRoPE), which the model works out from the image's grid.

    They are worked out on the prefix alone: on a packed sequence the model would give the second
    response the positions behind the first.
    """

    image_inputs: tuple[str, ...] = ("pixel_values", "image_grid_thw")
    axes = 3

    def __init__(self, base: Any) -> None:
        self.base = base

    def prefix_positions(self, group: Group) -> Tensor:
        ids = group.prefix_ids[None]
        grid = None if group.pixels is None else group.pixels.inputs["image_grid_thw"]
        positions, _ = self.base.model.get_rope_index(
            ids, mm_token_type_ids=self._types(ids), image_grid_thw=grid
        )
        found: Tensor = positions[:, 0]
        return found

    def position_ids(self, positions: Tensor) -> Tensor:
        return positions

    def own_positions(self, groups: list[Group], ids: Tensor) -> dict[str, Tensor]:
        grids = [g.pixels.inputs["image_grid_thw"] for g in groups if g.pixels is not None]
        if not grids:
            return {}
        return {"mm_token_type_ids": self._types(ids), "image_grid_thw": torch.cat(grids)}

    def _types(self, ids: Tensor) -> Tensor:
        return ids.eq(self.base.config.image_token_id).int()

    def unused(self) -> list[nn.Module]:
        return []


Family = Llava | Qwen2VL
FAMILIES: dict[str, type[Family]] = {
    "llava": Llava,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2VL,
    "qwen3_vl": Qwen2VL,
}


def base_model(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapper, with the adapters in it; else the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def family_of(model: nn.Module) -> Family:
    """Raises RecipeError for a model or an adapter that the scorers do not know."""
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise RecipeError(
            f"adapter {adapter.peft_type} works by tokens before the prompt, which the scorers "
            "would leave out; use LoRA"
        )
    base = base_model(model)
    kind = base.config.model_type
    if kind not in FAMILIES:
        raise RecipeError(f"models of type {kind!r} cannot be scored; expected {list(FAMILIES)}")
    if "mm_encoder_outputs" not in inspect.signature(base.model.forward).parameters:
        raise RecipeError(  # it would be swallowed as a keyword, and the images with it
            f"this transformers' {kind} takes no image features computed before; it needs 5.18 or "
            "later: pip install 'vispref[train]'"
        )
    return FAMILIES[kind](base)


def unused_parameters(model: nn.Module) -> list[str]:
    """Names of parameters that no output depends on, as LLaVA's last CLIP layer.

    Data parallel training does not reduce gradients across ranks where such parameters wait for
    one: freeze them.
    """
    modules = {id(module) for module in family_of(model).unused()}
    return [
        f"{outer}.{inner}"
        for outer, module in model.named_modules()
        if id(module) in modules
        for inner, _ in module.named_parameters()
    ]
