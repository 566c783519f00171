"""What all arms of the training benchmark share: model, rows, adapter, clock.

Knows torch, transformers and peft alone, so that it is the same code in an environment of TRL's.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from benchmarks.usage import cpu_s, peak_mb

TEXT_TOKENS = 60  # of a prompt, beside its image
BOS, EOS, FIRST_WORD = 1, 2, 3

Step = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """A LLaVA. `vision` is its CLIP tower, `image` and `patch` are in pixels, rank is LoRA's."""

    text: dict[str, int]
    vision: dict[str, int]
    image: int
    patch: int
    rank: int
    dtype: torch.dtype
    checkpointing: bool

    @property
    def image_tokens(self) -> int:
        return (self.image // self.patch) ** 2


def _widths(hidden: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


SIZES = {
    "tiny": Size(
        {**_widths(32, 64, 2, 2), "vocab_size": 64}, _widths(32, 64, 3, 2),
        16, 4, 2, torch.float32, False,
    ),
    "medium": Size(
        {**_widths(512, 1376, 8, 8), "vocab_size": 32000}, _widths(256, 1024, 4, 4),
        336, 14, 16, torch.float32, False,
    ),
    # LLaVA-1.5-7B's own numbers
    "7b": Size(
        {**_widths(4096, 11008, 32, 32), "vocab_size": 32064}, _widths(1024, 4096, 24, 16),
        336, 14, 128, torch.bfloat16, True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What one process measures.

    lengths: mean tokens of a response, end of sequence included; the shortest first, since a peak
    is that of all lengths so far.
    """

    arm: str
    objective: str
    size: str
    lengths: list[int]
    rows: int
    warm: int
    timed: int
    device: str
    threads: int
    largest: bool = False


@dataclass(frozen=True)
class Row:
    """prefix, bare: int64 [P], a prompt with its image's tokens and one without any image.

    images: "image" and "neighbour" to [1, 3, H, W]; responses: by name to int64 [T].
    """

    prefix: Tensor
    bare: Tensor
    images: dict[str, Tensor]
    responses: dict[str, Tensor]


def make_model(size: Size, device: str) -> LlavaForConditionalGeneration:
    """Random weights, the same for all arms.

    Every matrix keeps its input's scale: as they are initialised for training, attention looks
    everywhere alike, and a wrong mask would hardly show in the log-probabilities.
    """
    torch.manual_seed(0)
    image_token = size.text["vocab_size"] - 1
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size.vision, image_size=size.image, patch_size=size.patch),
        text_config=LlamaConfig(**size.text, max_position_embeddings=4096),
        image_token_id=image_token,
        image_token_index=image_token,
        image_seq_length=size.image_tokens,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=size.dtype)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def make_adapter(size: Size) -> LoraConfig:
    """LoRA on the language model's linear layers; all else is frozen, the vision tower too."""
    return LoraConfig(
        r=size.rank,
        lora_alpha=2 * size.rank,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
    )


def make_rows(size: Size, rows: int, response_tokens: int) -> list[Row]:
    """Random prompts, images and responses.

    Responses differ in length, as they do in every data set: the chosen one is a tenth longer than
    `response_tokens` and the rejected one a tenth shorter, in every second row the other way round.
    Of one length, a padded batch would need no mask and could run a faster attention.
    """
    source = torch.Generator().manual_seed(0)
    image_token = size.text["vocab_size"] - 1

    def words(count: int) -> Tensor:
        return torch.randint(FIRST_WORD, image_token, (count,), generator=source)

    def pixels() -> Tensor:
        return torch.randn(1, 3, size.image, size.image, generator=source)

    def response(share: float) -> Tensor:
        return torch.cat([words(round(share * response_tokens) - 1), torch.tensor([EOS])])

    found = []
    for number in range(rows):
        chosen, rejected = (1.1, 0.9) if number % 2 == 0 else (0.9, 1.1)
        lengths = {"chosen": chosen, "rejected": rejected, "neighbour_chosen": 1.0}
        bare = torch.cat([torch.tensor([BOS]), words(TEXT_TOKENS - 1)])
        image = torch.full((size.image_tokens,), image_token)
        found.append(
            Row(
                torch.cat([bare[:5], image, bare[5:]]),
                bare,
                {"image": pixels(), "neighbour": pixels()},
                {name: response(share) for name, share in lengths.items()},
            )
        )
    return found


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """At a rate of zero it works as much as at any, and the model stays the one others have too."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)


class Arm(Protocol):
    """A way to train. first: the log-probabilities of the first step by "image response", [rows]."""

    first: dict[str, list[float]]

    def make_step(self, rows: int, response_tokens: int) -> Step: ...


def main(make_arm: Callable[[Task], Arm], packages: tuple[str, ...]) -> None:
    """Measures the task named by the command line and prints a line of JSON for each length."""
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    arm = make_arm(task)
    cuda = task.device.startswith("cuda")
    told = {
        "rest_mb": _peak_mb(cuda),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", *packages)},
    }
    for length in task.lengths:
        print(
            json.dumps({"length": length, **measure(arm, task, length, cuda), **told}), flush=True
        )


def measure(arm: Arm, task: Task, length: int, cuda: bool) -> dict[str, Any]:
    """Medians of a step's seconds, the peak so far, and log-probabilities of the first step."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # what a search for the largest batch has left
    step = arm.make_step(task.rows, length)
    for _ in range(task.warm):
        step()
    times = [_seconds(step, cuda) for _ in range(task.timed)]
    found = {
        "seconds": statistics.median(wall for wall, _ in times),
        "cpu_seconds": statistics.median(cpu for _, cpu in times),
        "peak_mb": _peak_mb(cuda),
        "log_probs": arm.first,
    }
    if task.largest:
        del step
        found["largest"] = largest_batch(lambda rows: arm.make_step(rows, length))
    return found


def _peak_mb(cuda: bool) -> float:
    """In MiB: of the process on a CPU, and of what tensors held on a GPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_mb()


def _seconds(step: Step, cuda: bool) -> tuple[float, float]:
    """Of one step: on the clock (the GPU's own, where there is one), and of the process's cores."""
    used = cpu_s()
    if not cuda:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began, cpu_s() - used
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000, cpu_s() - used


def largest_batch(make_step: Callable[[int], Step]) -> int:
    """The most rows whose step does not run out of memory; 0 if one row does."""
    fits, fails = 0, sys.maxsize
    while fails - fits > 1:
        rows = max(1, 2 * fits) if fails == sys.maxsize else (fits + fails) // 2
        try:
            make_step(rows)()
            fits = rows
        except torch.OutOfMemoryError:
            fails = rows
        if fails == rows:  # not before: the error keeps what its frames hold
            gc.collect()
            torch.cuda.empty_cache()
    return fits
