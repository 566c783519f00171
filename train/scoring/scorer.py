"""Log-probabilities of responses, summed over their tokens, by either layout."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from config.errors import RecipeError, TrainingError
from train.encode import EncodedRow
from train.objectives import Combination
from train.scoring import naive, shared, split
from train.scoring.families import family_of
from train.scoring.head import token_log_probs
from train.scoring.packing import Entry, Owner, Packed
from train.scoring.vision import Features

LAYOUTS = {"naive": naive.pack, "shared": shared.pack}


class Scorer(nn.Module):
    """From encoded rows to log pi(response | image, prompt).

    An nn.Module whose forward gives the log-probabilities, so that the hooks of data parallel
    wrappers fire. Policy and reference must be scored by the same layout, attention and dtype: in
    bf16 two layouts differ by about 0.1 nats over 100 tokens.

    model: LLaVA, Qwen2-VL, Qwen2.5-VL or Qwen3-VL, bare or with a LoRA adapter.
    layout: "shared" (one prefix for all responses to an image and prompt) or "naive".
    head_chunk: response tokens the language-model head sees at a time.
    Raises RecipeError for a model or an attention the layout would silently get wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Literal["naive", "shared"] = "shared",
        head_chunk: int = 512,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise RecipeError(f"layout is {layout!r}; expected one of {list(LAYOUTS)}")
        self.model = model
        self.layout = layout
        self.head_chunk = head_chunk
        if layout == "shared":
            shared.check(family_of(model), self.attention)
            if self.attention == "sdpa":
                split.use(family_of(model).base)

    @property
    def attention(self) -> str:
        """The attention implementation the language model was loaded with."""
        language_model = family_of(self.model).base.model.language_model
        found = str(language_model.config._attn_implementation)
        return "sdpa" if found == split.NAME else found

    def forward(self, rows: list[EncodedRow]) -> dict[Combination, Tensor]:
        """fp32 [rows] for each combination, summed over response tokens with end-of-sequence.

        Every batch of one objective makes the same number of calls of the model, one for groups with
        an image and one for groups without, so that sharded ranks stay in step.
        """
        combinations = _common(rows)
        family = family_of(self.model)
        entries: list[Entry] = [(i, group) for i, row in enumerate(rows) for group in row.groups]
        images = [group.pixels for _, group in entries if group.pixels is not None]
        features = Features(family, images)
        hidden, targets, owners, lengths = [], [], [], []
        for with_image in (True, False):
            part = [entry for entry in entries if (entry[1].pixels is not None) == with_image]
            if not part:
                continue
            packed = LAYOUTS[self.layout](family, part, self.attention)
            hidden.append(self._hidden(packed, features))
            targets.append(packed.targets)
            owners += packed.owners
            lengths += packed.lengths
        states = torch.cat(hidden)
        found = token_log_probs(
            family.base.get_output_embeddings(),
            states,
            torch.cat(targets).to(states.device),
            self.head_chunk,
        )
        return _by_combination(found, owners, lengths, combinations, len(rows))

    def _hidden(self, packed: Packed, features: Features) -> Tensor:
        """[N, width]: the hidden states that predict the N response tokens."""
        base = family_of(self.model).base
        embedding = base.get_input_embeddings().weight
        inputs = {name: tensor.to(embedding.device) for name, tensor in packed.inputs.items()}
        options = {}
        if self.layout == "shared":
            segments = inputs.pop("segments")
            inputs["attention_mask"] = shared.mask(segments, self.attention, embedding.dtype)
            if self.attention == "sdpa":
                options["shared_prefix"] = shared.common_prefix(packed.inputs["segments"])
        output = base.model(**inputs, **features.of(packed.images), **options, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states[packed.sequence.to(states.device), packed.column.to(states.device)]


def _common(rows: list[EncodedRow]) -> tuple[Combination, ...]:
    if not rows:
        raise ValueError("a batch of no rows was given to the scorer")
    combinations = rows[0].combinations
    for row in rows:
        if row.combinations != combinations:
            raise ValueError(
                f"row {row.row_id} has {row.combinations}, row {rows[0].row_id} {combinations}; "
                "expected rows encoded for one objective"
            )
    return combinations


def _by_combination(
    log_probs: Tensor,
    owners: list[Owner],
    lengths: list[int],
    combinations: tuple[Combination, ...],
    rows: int,
) -> dict[Combination, Tensor]:
    """Sums [N] token log-probabilities into [rows] for each combination."""
    place = {which: number for number, which in enumerate(combinations)}
    slots = torch.tensor([place[which] * rows + row for row, which in owners])
    index = slots.repeat_interleave(torch.tensor(lengths)).to(log_probs.device)
    sums = log_probs.new_zeros(len(combinations) * rows).index_add(0, index, log_probs)
    return dict(zip(combinations, sums.view(len(combinations), rows), strict=True))


@torch.no_grad()
def check_layouts(a: Scorer, b: Scorer, rows: list[EncodedRow], tolerance: float) -> float:
    """The largest |difference| of a log-probability between two scorers, in nats.

    For the first batch of a run: the shared layout against the naive one. Dropout is off for both.
    Mistakes of packing are worth half a nat and more; layouts differ by 1e-5 in fp32 and, over 100
    tokens, by about 0.1 in bf16.
    Raises TrainingError, naming the row and the combination, where it is above `tolerance` or not
    a number.
    """
    modes = [(module, module.training) for scorer in (a, b) for module in scorer.modules()]
    a.eval()
    b.eval()
    try:
        found, other = a(rows), b(rows)
    finally:
        for module, training in modes:
            module.training = training
    largest = 0.0
    for which, values in found.items():
        differences = (values - other[which]).abs()
        worst = int(differences.argmax())
        largest = max(largest, float(differences[worst]))
        if not bool((differences <= tolerance).all()):
            raise TrainingError(
                f"layouts {a.layout!r} and {b.layout!r} disagree on row {rows[worst].row_id}, "
                f"{which.response} given {which.image}: {float(values[worst]):.5f} against "
                f"{float(other[which][worst]):.5f} nats, tolerance {tolerance}. Train with the "
                "naive layout and report the model and its attention."
            )
    return largest
