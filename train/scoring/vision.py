"""Each image of a batch goes through the vision tower once, however many sequences show it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from train.encode import Pixels
from train.scoring.families import Family


class Features:
    """The features of a batch's images, by the images' keys."""

    def __init__(self, family: Family, images: Iterable[Pixels]) -> None:
        unique = {pixels.key: pixels for pixels in images}
        self._place = {key: number for number, key in enumerate(unique)}
        self._output: Any = None
        if not unique:
            return
        parameter = next(family.base.parameters())
        inputs = {
            name: torch.cat([pixels.inputs[name] for pixels in unique.values()]).to(
                parameter.device
            )
            for name in family.image_inputs
        }
        # not through pixel dtype casts of the tower's own: LLaVA's has none
        inputs["pixel_values"] = inputs["pixel_values"].to(parameter.dtype)
        self._output = family.base.model.get_image_features(**inputs, return_dict=True)

    def of(self, images: Iterable[Pixels]) -> dict[str, Any]:
        """The model's `mm_encoder_outputs` for sequences that show these images, in this order."""
        places = [self._place[pixels.key] for pixels in images]
        if not places:
            return {}
        chosen = copy.copy(self._output)
        chosen.pooler_output = [self._output.pooler_output[place] for place in places]
        layers = getattr(self._output, "deepstack_features", None)
        if layers is not None:  # Qwen3-VL: features for several layers of the language model
            chosen.deepstack_features = [[layer[place] for place in places] for layer in layers]
        return {"mm_encoder_outputs": {"image": chosen}}
