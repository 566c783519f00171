"""From a training row to tokens and pixels: the one preprocessing of policy, reference and evaluation."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from config.digest import seed_of
from config.errors import FileMissing, RecipeError, RefusedRow
from train.objectives import Combination
from train.rows import TrainingRow

# mDPO's crop: 1 to 20 % of the area, sides within 3:4 and 4:3, scaled back to the image's size.
CROP_AREA = (0.01, 0.2)
CROP_RATIO = 4 / 3

_MARK = "RESPONSE"  # stands for a response where the template's own text is looked at


@dataclass(frozen=True)
class Pixels:
    """One image as the processor made it. Equal keys mean equal pixels, which are encoded once.

    inputs: "pixel_values" ([1, 3, H, W] for LLaVA, [patches, features] for the Qwen families) and,
    for the latter, "image_grid_thw" [1, 3].
    """

    key: str
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Group:
    """One (image slot, prompt) and the responses scored under it.

    prefix_ids: int64 [P], the conversation up to the response, image tokens expanded.
    responses: name to int64 [T], T >= 1, the last one the end-of-sequence token.
    """

    slot: str
    prefix_ids: Tensor
    pixels: Pixels | None
    responses: dict[str, Tensor]


@dataclass(frozen=True)
class EncodedRow:
    """tokens: of all groups with prefixes shared; naive_tokens: with a prefix for each response."""

    row_id: str
    groups: tuple[Group, ...]

    @property
    def combinations(self) -> tuple[Combination, ...]:
        return tuple(
            Combination(group.slot, name) for group in self.groups for name in group.responses
        )

    @property
    def tokens(self) -> int:
        return sum(len(g.prefix_ids) + sum(map(len, g.responses.values())) for g in self.groups)

    @property
    def naive_tokens(self) -> int:
        return sum(
            len(g.prefix_ids) + len(ids) for g in self.groups for ids in g.responses.values()
        )

    @property
    def response_tokens(self) -> int:
        return sum(len(ids) for group in self.groups for ids in group.responses.values())


class Encoder:
    """Encodes rows for the combinations of one objective.

    processor: a transformers processor with a chat template. read: from a path of a row's images to
    the file's bytes (Root.read_bytes). max_tokens: the longest prefix with one response; longer rows
    are refused, nothing is ever cut.
    Raises RecipeError where the processor's template or tokenizer cannot be trained on.
    """

    def __init__(
        self,
        processor: Any,
        combinations: Iterable[Combination],
        read: Callable[[str], bytes],
        max_tokens: int,
        crop_area: tuple[float, float] = CROP_AREA,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_tokens = max_tokens
        self.crop_area = crop_area
        self._read = read
        self._wanted: dict[str, list[str]] = {}
        for which in combinations:
            self._wanted.setdefault(which.image, []).append(which.response)
        self._lead = self._template_lead()
        self._bos = self.tokenizer.bos_token
        self._reserved = sorted(
            {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
            | {processor.image_token}
        )

    def encode(self, row: TrainingRow) -> EncodedRow:
        """The row's groups, one for each image slot. Raises RefusedRow with the reason."""
        for text in (row.prompt, *row.responses.values()):
            for token in self._reserved:
                if token in text:
                    raise RefusedRow(
                        "reserved_token",
                        f"row {row.row_id} has {token!r} in its text, which the tokenizer would "
                        "take for a token of its own",
                    )
        groups = tuple(self._group(row, slot, names) for slot, names in self._wanted.items())
        for group in groups:
            longest = len(group.prefix_ids) + max(map(len, group.responses.values()))
            if longest > self.max_tokens:
                raise RefusedRow(
                    "too_long",
                    f"row {row.row_id} needs {longest} tokens for {group.slot!r}, the limit is "
                    f"{self.max_tokens}; image tokens are never cut: raise the limit",
                )
        return EncodedRow(row.row_id, groups)

    def _group(self, row: TrainingRow, slot: str, names: list[str]) -> Group:
        text = self.prompt_text(row.prompt, with_image=slot != "none")
        if slot == "none":
            prefix, pixels = self._ids(text, start=True), None
        else:
            prefix, pixels = self._image_prefix(row, slot, text)
        responses = {name: self._response(text, row.responses[name]) for name in names}
        for name, ids in responses.items():
            if len(ids) == 1:
                raise RefusedRow(
                    "empty_response",
                    f"row {row.row_id}: the tokenizer makes nothing of {name} "
                    f"{row.responses[name]!r}",
                )
        return Group(slot, torch.tensor(prefix), pixels, responses)

    def prompt_text(self, prompt: str, with_image: bool) -> str:
        """The conversation up to the response, by the chat template."""
        return self._template(prompt, with_image, None)

    def _template(self, prompt: str, with_image: bool, response: str | None) -> str:
        content = [{"type": "image"}] if with_image else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        if response is not None:
            told = [{"type": "text", "text": response}]
            messages.append({"role": "assistant", "content": told})
        found: str = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=response is None
        )
        return found

    def _template_lead(self) -> str:
        """What the template puts between the prompt's text and the response, a space for example."""
        if not self.processor.chat_template:
            raise RecipeError("the model's processor has no chat template; training needs one")
        end = self.tokenizer.eos_token
        if end is None:
            raise RecipeError("the model's tokenizer has no end-of-sequence token")
        if self.tokenizer("x")["input_ids"][-1] == self.tokenizer.eos_token_id:
            raise RecipeError(f"the tokenizer ends every text, prompts too, with {end!r}")
        before = self._template("x", True, None)
        whole = self._template("x", True, _MARK)
        lead, mark, rest = whole.removeprefix(before).partition(_MARK)
        if not whole.startswith(before) or not mark:
            raise RecipeError(
                "the chat template does not write an answered turn as the prompt and then the "
                f"response: {before!r} becomes {whole!r}"
            )
        if rest.strip() and not rest.lstrip().startswith(end):
            raise RecipeError(
                f"the chat template ends a response with {rest!r}, the tokenizer with {end!r}; "
                "set the tokenizer's eos_token to what ends a turn"
            )
        return lead

    def _ids(self, text: str, start: bool) -> list[int]:
        """start: with the tokenizer's own first tokens, unless the template has written them."""
        add = start and not (self._bos and text.startswith(self._bos))
        ids: list[int] = self.tokenizer(text, add_special_tokens=add)["input_ids"]
        return ids

    def _response(self, prompt_text: str, response: str) -> Tensor:
        """The response's tokens as they stand behind the prompt, and the end-of-sequence token.

        A tokenizer may join the prompt's last letters with the response's first. The prefix is
        fixed, in training as in generation, so such a response is tokenised by itself.
        """
        prefix = self._ids(prompt_text, start=True)
        whole = self._ids(prompt_text + self._lead + response, start=True)
        if whole[: len(prefix)] == prefix:
            ids = whole[len(prefix) :]
        else:
            ids = self._ids(self._lead + response, start=False)
        return torch.tensor([*ids, self.tokenizer.eos_token_id])

    def _image_prefix(self, row: TrainingRow, slot: str, text: str) -> tuple[list[int], Pixels]:
        path = row.images["image" if slot == "crop" else slot]
        image = self._open(row, path)
        key = path
        if slot == "crop":
            box = crop_box(row.row_id, image.size, self.crop_area)
            image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
            key = f"{path}#{box}"
        add = not (self._bos and text.startswith(self._bos))
        try:
            found = self.processor(
                text=[text], images=[image], add_special_tokens=add, return_tensors="pt"
            )
        except ValueError as error:  # the processor's word on sizes it does not take
            raise RefusedRow(
                "unfit_image", f"row {row.row_id}: {path} {image.size} was not taken: {error}"
            ) from error
        names = ("pixel_values", "image_grid_thw", "image_sizes")
        inputs = {name: found[name] for name in names if name in found}
        return found["input_ids"][0].tolist(), Pixels(key, inputs)

    def _open(self, row: TrainingRow, path: str) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._read(path))).convert("RGB")
        except FileMissing as error:
            raise RefusedRow("missing_image", f"row {row.row_id}: {error}") from error
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise RefusedRow("unreadable_image", f"row {row.row_id}: {path}: {error}") from error


def crop_box(
    row_id: str, size: tuple[int, int], area: tuple[float, float] = CROP_AREA
) -> tuple[int, int, int, int]:
    """The row's crop in pixels (left, top, right, bottom), the same for every model and epoch.

    Its share of the area is uniform within `area`, its shape log-uniform within 3:4 and 4:3, its
    place uniform: mDPO's (and MPO's) "0-20 %" crop. At least two pixels a side, or the whole side.
    """
    draw = random.Random(seed_of(row_id, "crop"))  # noqa: S311 - a crop, not a secret
    share = draw.uniform(*area) * size[0] * size[1]
    ratio = math.exp(draw.uniform(-math.log(CROP_RATIO), math.log(CROP_RATIO)))
    width = min(size[0], max(2, round(math.sqrt(share * ratio))))
    height = min(size[1], max(2, round(math.sqrt(share / ratio))))
    left = draw.randint(0, size[0] - width)
    top = draw.randint(0, size[1] - height)
    return left, top, left + width, top + height
