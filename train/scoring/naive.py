"""One sequence for each (image, prompt, response): what everybody does, and what is checked against.

Positions and mask are the model's own, from a mask of the padding: this layout shares nothing with
the prefix-shared one but the images' features and the head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.encode import Group
from train.objectives import Combination
from train.scoring.families import Family
from train.scoring.packing import Entry, Marks, Packed, padded


def pack(family: Family, entries: list[Entry], attention: str) -> Packed:
    """Sequences [prefix | response], padded at the end."""
    marks = Marks()
    sequences: list[Tensor] = []
    groups: list[Group] = []
    for row, group in entries:
        prefix = len(group.prefix_ids)
        for name, ids in group.responses.items():
            owner = (row, Combination(group.slot, name))
            marks.add(owner, len(sequences), prefix, prefix, ids)
            sequences.append(torch.cat([group.prefix_ids, ids]))
            groups.append(group)
    ids = padded(sequences, 0)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    inputs = {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        **family.own_positions(groups, ids),
    }
    return marks.packed(inputs, [group.pixels for group in groups if group.pixels is not None])
