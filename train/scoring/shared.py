"""One sequence for each (image, prompt): [prefix | y1 | y2 | ...], the prefix computed once.

The positions of every response start again behind the prefix's largest one, and a token sees, of
what stands before it, the prefix and its own response. Exact, and about half the tokens of SymMPO.
"""

from __future__ import annotations

import torch
from torch import Tensor

from config.errors import RecipeError
from train.objectives import Combination
from train.scoring.families import Family
from train.scoring.packing import Entry, Marks, Packed, padded

MASKED_ATTENTION = ("sdpa", "eager")  # kernels that take a dense mask
PREFIX, PADDING = 0, -1


def check(family: Family, attention: str) -> None:
    """Raises RecipeError for a model that would not keep to the mask, without saying so."""
    if attention not in MASKED_ATTENTION:
        raise RecipeError(
            f"attention {attention!r} takes no dense mask, which the shared layout needs; load the "
            "model with attn_implementation='sdpa', or take the naive layout"
        )
    text = family.base.config.get_text_config()
    layers = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)  # of all layers, where they are not told apart
    if "sliding_attention" in layers if layers else window:
        raise RecipeError(
            "the language model has sliding-window layers, which would take the shared layout's "
            "mask as it is and see the whole prefix; take the naive layout"
        )


def pack(family: Family, entries: list[Entry], attention: str) -> Packed:
    """Sequences [prefix | responses ...], padded at the end, with their mask and positions."""
    marks, sequences, segments, positions = Marks(), [], [], []
    for number, (row, group) in enumerate(entries):
        start = prefix = len(group.prefix_ids)
        own = family.prefix_positions(group)
        behind = int(own.max()) + 1
        ids, segment, places = [group.prefix_ids], [torch.full((prefix,), PREFIX)], [own]
        for index, (name, response) in enumerate(group.responses.items(), start=PREFIX + 1):
            marks.add((row, Combination(group.slot, name)), number, prefix, start, response)
            ids.append(response)
            segment.append(torch.full((len(response),), index))
            places.append((torch.arange(len(response)) + behind).expand(family.axes, -1))
            start += len(response)
        sequences.append(torch.cat(ids))
        segments.append(torch.cat(segment))
        positions.append(torch.cat(places, 1).T)
    padded_positions = torch.nn.utils.rnn.pad_sequence(positions, batch_first=True)
    inputs = {
        "input_ids": padded(sequences, 0),
        "position_ids": family.position_ids(padded_positions.permute(2, 0, 1).contiguous()),
        "segments": padded(segments, PADDING),
    }
    return marks.packed(inputs, [g.pixels for _, g in entries if g.pixels is not None])


def mask(segments: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """[S, 1, L, L] from segments [S, L]: what each token (row) may see (column).

    Boolean for sdpa; for eager additive in the model's dtype, since eager adds whatever it is given
    to the scores, booleans too. Padding sees padding, so that no row of the softmax is empty.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen, seeing = segments[:, None, :], segments[:, :, None]
    allowed = (causal & ((seen == PREFIX) | (seen == seeing)))[:, None]
    if attention == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def common_prefix(segments: Tensor) -> int:
    """How many columns are prefix in every one of the sequences [S, L]."""
    return int(segments.eq(PREFIX).all(0).sum())
