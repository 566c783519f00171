"""What a layout makes of a batch: padded sequences, and where in them the log-probabilities stand."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.encode import Group, Pixels
from train.objectives import Combination

Owner = tuple[int, Combination]  # the row's place in the batch, and what of it was scored
Entry = tuple[int, Group]


@dataclass
class Packed:
    """Sequences [S, L], padded at the end, and the N response tokens in them.

    inputs: tensors for the model by argument name. images: in the order in which the sequences show
    them. sequence, column: int64 [N], where the hidden state stands that predicts a token.
    targets: int64 [N]. owners, lengths: whose tokens follow each other, and how many each has.
    """

    inputs: dict[str, Tensor]
    images: list[Pixels]
    sequence: Tensor
    column: Tensor
    targets: Tensor
    owners: list[Owner]
    lengths: list[int]


@dataclass
class Marks:
    """Gathers, response by response, where its tokens are predicted."""

    sequence: list[Tensor] = field(default_factory=list)
    column: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    owners: list[Owner] = field(default_factory=list)

    def add(self, owner: Owner, sequence: int, prefix: int, start: int, ids: Tensor) -> None:
        """A response whose tokens stand at `start` and behind a prefix of so many tokens.

        Its first token is predicted by the prefix's last hidden state, the others by the token
        before them; the last token predicts nothing.
        """
        column = torch.arange(start - 1, start - 1 + len(ids))
        column[0] = prefix - 1
        self.sequence.append(torch.full_like(column, sequence))
        self.column.append(column)
        self.targets.append(ids)
        self.owners.append(owner)

    def packed(self, inputs: dict[str, Tensor], images: list[Pixels]) -> Packed:
        return Packed(
            inputs,
            images,
            torch.cat(self.sequence),
            torch.cat(self.column),
            torch.cat(self.targets),
            self.owners,
            [len(ids) for ids in self.targets],
        )


def padded(rows: list[Tensor], value: int) -> Tensor:
    """[S, L] from S tensors [l]."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
