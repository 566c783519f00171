"""A LLaVA checkpoint that answers batches: prompts of different lengths, pictures or none."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from config.errors import InputError
from miniature.cache import roomy_cache
from miniature.pictures import Picture
from miniature.refusal import ProtocolError
from miniature.sampling import Draw, SeededSampler

SEGMENT = 24  # tokens that a batch is answered on for before it lets rows go
KEPT_FEATURES = 4096  # pictures whose features are kept, the latest ones


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to be made. `ids` is the prompt with one token for each patch of the picture."""

    ids: tuple[int, ...]
    picture: Picture | None
    draw: Draw


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokens of an answer without the one that ends it; `ended` says whether there was one."""

    ids: tuple[int, ...]
    ended: bool


class Decoder:
    """Model and processor of one checkpoint. Used by one thread, except for `prompt` and `text`.

    `encoded` counts the pictures that went through the image tower.
    """

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        self._model = model.eval()
        self._processor = processor
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._end = int(model.generation_config.eos_token_id)
        self._pad = int(model.generation_config.pad_token_id)
        self._image = int(model.config.image_token_id)
        self._patches = int(model.config.image_seq_length)
        self.context = int(model.config.text_config.max_position_embeddings)
        self.encoded = 0

    @classmethod
    def load(cls, path: Path) -> Decoder:
        """A checkpoint's folder (safetensors), in float32, on a GPU where there is one.

        Raises InputError for a folder that is none.
        """
        if not (path / "config.json").is_file():
            raise InputError(f"{path} holds no config.json; expected a LLaVA checkpoint's folder")
        where = "cuda" if torch.cuda.is_available() else "cpu"
        model = LlavaForConditionalGeneration.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        return cls(model.to(where), processor)

    def prompt(
        self, messages: Sequence[tuple[str, str]], picture: Picture | None
    ) -> tuple[int, ...]:
        """A conversation as tokens, ready to be answered. The picture goes with the first user turn.

        A text cannot smuggle image tokens in: raises ProtocolError (400) for one that holds any.
        """
        turns, pending = [], picture is not None
        for role, text in messages:
            parts = [{"type": "text", "text": text}]
            if pending and role == "user":
                parts, pending = [{"type": "image"}, *parts], False
            turns.append({"role": role, "content": parts})
        if pending:
            raise ProtocolError(400, "an image came without a message of the user")
        text = self._processor.apply_chat_template(turns, add_generation_prompt=True)
        ids: list[int] = self._processor.tokenizer(text)["input_ids"]
        images = ids.count(self._image)
        if images != (picture is not None):
            raise ProtocolError(
                400, f"the messages name {images} image tokens in all; expected one for the image"
            )
        return tuple(
            token for one in ids for token in [one] * (self._patches if one == self._image else 1)
        )

    def text(self, ids: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(ids, skip_special_tokens=True))

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], tell: Callable[[int, Sampled], None]) -> None:
        """One answer a row, made together: `tell` gets a row's index and its answer, once each.

        After every SEGMENT tokens the rows that ended are told and leave the batch, so that a
        long answer holds up no short one. Pictures must have been through `see`.
        """
        ids, mask = self._padded([row.ids for row in rows])
        sampler = SeededSampler([row.draw for row in rows], self._end, ids.device)
        cache, start = roomy_cache(), ids.shape[1]
        first: dict[str, Tensor] = {"inputs_embeds": self._embedded(ids, rows)}
        live = list(range(len(rows)))
        while live:
            made = self._model.generate(
                **(first or {"input_ids": ids}),
                attention_mask=mask,
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=SEGMENT,
                logits_processor=[sampler],
            )
            new = made if first else made[:, ids.shape[1] :]
            ids, first = torch.cat([ids, new], dim=1), {}
            going = []
            for at, (index, tokens) in enumerate(zip(live, ids[:, start:].tolist(), strict=True)):
                limit = rows[index].draw.limit
                if self._end in tokens[: limit + 1] or len(tokens) >= limit:
                    tell(index, _sampled(tokens[:limit], self._end))
                else:
                    going.append(at)
            live = [live[at] for at in going]
            chosen = torch.tensor(going, dtype=torch.long, device=ids.device)
            ids = ids[chosen]
            mask = torch.cat([mask[chosen], torch.ones_like(ids[:, mask.shape[1] :])], dim=1)
            sampler.keep(chosen, start)
            cache.batch_select_indices(chosen)

    def _padded(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [rows, longest]. Padding stands on the left, so that all answers
        begin at one position."""
        longest = max(map(len, prompts))
        ids = [[self._pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _embedded(self, ids: Tensor, rows: Sequence[Row]) -> Tensor:
        """The prompts as the language model takes them in: [rows, longest, width]."""
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        seen = [self._features[row.picture.sha256] for row in rows if row.picture is not None]
        if not seen:
            return embedded
        places = (ids == self._image)[..., None].expand_as(embedded)
        return embedded.masked_scatter(places, torch.cat(seen).to(embedded.dtype))

    @torch.inference_mode()
    def see(self, pictures: Sequence[Picture]) -> dict[str, str]:
        """Encodes the pictures that are not known, each once; digests of unreadable ones: why."""
        faults: dict[str, str] = {}
        images: dict[str, Image.Image] = {}
        for picture in pictures:
            if picture.sha256 in self._features:
                self._features.move_to_end(picture.sha256)
            elif picture.sha256 not in images and picture.sha256 not in faults:
                try:
                    images[picture.sha256] = Image.open(io.BytesIO(picture.data)).convert("RGB")
                except (OSError, ValueError, Image.DecompressionBombError) as error:
                    faults[picture.sha256] = f"cannot identify image file: {error}"
        if images:
            pixels = self._processor.image_processor(list(images.values()), return_tensors="pt")
            features = self._model.model.get_image_features(
                pixels["pixel_values"].to(self._model.device, self._model.dtype)
            ).pooler_output
            self._features.update(zip(images, features, strict=True))
            self.encoded += len(images)
        wanted = len({picture.sha256 for picture in pictures})
        while len(self._features) > max(KEPT_FEATURES, wanted):
            self._features.popitem(last=False)
        return faults


def _sampled(tokens: list[int], end: int) -> Sampled:
    if end in tokens:
        return Sampled(tuple(tokens[: tokens.index(end)]), True)
    return Sampled(tuple(tokens), False)
