"""TRL's DPOTrainer on the same rows: `PYTHON -m benchmarks.train_trl TASK`, PYTHON one that has TRL.

Its own forward pass, loss and metrics by its `training_step`, with LoRA and the adapter-off reference
it takes for that, on a batch collated before as its collator for images does: chosen rows, then
rejected ones, padded at the end, each image twice. Its data loader and its logging are left out.
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from benchmarks.train_setup import (
    SIZES,
    Size,
    Step,
    Task,
    main,
    make_adapter,
    make_model,
    make_rows,
    optimizer_of,
)


def make_processor() -> LlavaProcessor:
    """The trainer asks for one; batches are collated without it."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<image>": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    return LlavaProcessor(CLIPImageProcessor(), tokenizer, patch_size=14)


def collate(size: Size, rows: int, response_tokens: int, device: str) -> dict[str, torch.Tensor]:
    made = make_rows(size, rows, response_tokens)
    pairs = [(row, row.responses[name]) for name in ("chosen", "rejected") for row in made]

    def padded(values: list[torch.Tensor]) -> torch.Tensor:
        return pad_sequence(values, batch_first=True).to(device)

    texts = [torch.cat([row.prefix, response]) for row, response in pairs]
    return {
        "input_ids": padded(texts),
        "attention_mask": padded([torch.ones_like(text) for text in texts]),
        "completion_mask": padded(
            [
                torch.cat([torch.zeros_like(row.prefix), torch.ones_like(response)])
                for row, response in pairs
            ]
        ),
        "pixel_values": torch.cat([row.images["image"] for row, _ in pairs]).to(device, size.dtype),
    }


class Trl:
    """Trains DPO with LoRA."""

    def __init__(self, task: Task) -> None:
        self.task, self.size = task, SIZES[task.size]
        options = DPOConfig(
            tempfile.mkdtemp(prefix="trl-"),
            bf16=self.size.dtype is torch.bfloat16,
            use_cpu=task.device == "cpu",
            gradient_checkpointing=self.size.checkpointing,
            max_length=None,
            report_to=[],
        )
        self.trainer = DPOTrainer(
            make_model(self.size, task.device),
            args=options,
            train_dataset=Dataset.from_list(
                [{"images": [], "prompt": "", "chosen": "", "rejected": ""}]
            ),
            processing_class=make_processor(),
            peft_config=make_adapter(self.size),
        )
        # what `train` does before its first step
        self.trainer.current_gradient_accumulation_steps = 1
        if self.size.checkpointing:
            self.trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = self.trainer.accelerator.prepare_model(self.trainer.model)
        self.optimizer = optimizer_of(self.trainer.model)
        self.first: dict[str, list[float]] = {}

    def make_step(self, rows: int, response_tokens: int) -> Step:
        batch = collate(self.size, rows, response_tokens, self.task.device)
        found = self.trainer.compute_ref_log_probs(self.model, batch)
        names = ("image chosen", "image rejected")
        self.first = {name: value.tolist() for name, value in zip(names, found, strict=True)}

        def step() -> None:
            self.trainer.training_step(self.model, dict(batch))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return step


if __name__ == "__main__":
    main(Trl, ("trl",))
