"""The arms of this project, each in a process of its own: `python -m benchmarks.train_arm TASK`.

naive: a sequence for each response, those without an image in a call of their own. one batch: the
same in one padded batch. shared: prefixes computed once. shared, cached reference: the reference's
log-probabilities were computed before the first step. The others compute them in every step, in
their own layout, with the adapter off.
"""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model

from benchmarks.train_setup import (
    SIZES,
    Row,
    Step,
    Task,
    main,
    make_adapter,
    make_model,
    make_rows,
    optimizer_of,
)
from train.encode import EncodedRow, Group, Pixels
from train.objectives import Combination, Objective, get
from train.scoring import Scorer, naive
from train.scoring import scorer as parts

LogProbs = dict[Combination, torch.Tensor]


class OneBatch(Scorer):
    """The naive layout with prompts that have no image padded to the length of those that have."""

    def forward(self, rows: list[EncodedRow]) -> LogProbs:
        family = parts.family_of(self.model)
        entries = [(number, group) for number, row in enumerate(rows) for group in row.groups]
        packed = naive.pack(family, entries, self.attention)
        hidden = self._hidden(packed, parts.Features(family, packed.images))
        head = family.base.get_output_embeddings()
        found = parts.token_log_probs(
            head, hidden, packed.targets.to(hidden.device), self.head_chunk
        )
        return parts._by_combination(
            found, packed.owners, packed.lengths, rows[0].combinations, len(rows)
        )


SCORERS = {
    "naive": lambda model: Scorer(model, "naive"),
    "one batch": lambda model: OneBatch(model, "naive"),
    "shared": Scorer,
    "shared, cached reference": Scorer,
}


def encode(row: Row, name: str, objective: Objective) -> EncodedRow:
    """As `train.encode.Encoder` makes them of text and files."""
    wanted: dict[str, list[str]] = {}
    for which in objective.combinations:
        wanted.setdefault(which.image, []).append(which.response)
    groups = []
    for slot, names in wanted.items():
        pixels = None
        if slot != "none":
            pixels = Pixels(f"{name}/{slot}", {"pixel_values": row.images[slot]})
        prefix = row.bare if pixels is None else row.prefix
        groups.append(Group(slot, prefix, pixels, {key: row.responses[key] for key in names}))
    return EncodedRow(name, tuple(groups))


class Ours:
    """Trains an objective with LoRA by one of the `SCORERS`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = SIZES[task.size]
        self.objective = get(task.objective)
        base = make_model(self.size, task.device)
        self.model: PeftModel = get_peft_model(base, make_adapter(self.size))
        if self.size.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        self.scorer = SCORERS[task.arm](self.model)
        self.optimizer = optimizer_of(self.model)
        self.first: dict[str, list[float]] = {}

    def make_step(self, rows: int, response_tokens: int) -> Step:
        made = make_rows(self.size, rows, response_tokens)
        batch = [encode(row, str(number), self.objective) for number, row in enumerate(made)]
        cached = self.reference(batch) if "cached" in self.task.arm else None
        self.first = {}

        def step() -> None:
            reference = self.reference(batch) if cached is None else cached
            policy = self.score(batch)
            if not self.first:
                self.first = {" ".join(key): found.tolist() for key, found in policy.items()}
            self.objective.terms(policy, reference)["loss"].mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return step

    def score(self, batch: list[EncodedRow]) -> LogProbs:
        # the adapter's weights are fp32 beside a model in bf16
        mixed = self.size.dtype is not torch.float32
        with torch.autocast(self.task.device.split(":")[0], self.size.dtype, enabled=mixed):
            return self.scorer(batch)

    @torch.no_grad()
    def reference(self, batch: list[EncodedRow]) -> LogProbs:
        with self.model.disable_adapter():
            return self.score(batch)


if __name__ == "__main__":
    main(Ours, ("vispref",))
