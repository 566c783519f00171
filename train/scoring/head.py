"""Log-probabilities of chosen tokens, without the logits of a whole batch in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint


def token_log_probs(head: nn.Module, hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """fp32 [N]: log p(target) under the head, for hidden states [N, width] and targets int64 [N].

    The head sees `chunk` rows at a time; its logits [chunk, vocabulary] are made again in the
    backward pass instead of being kept. The log-softmax is in fp32 whatever the head's dtype.
    Ranks may differ in the number of chunks: a head that is sharded as a unit of its own (FSDP) would
    wait for calls that never come, so leave it in the root unit.
    """
    if len(hidden) == 0:
        return hidden.new_zeros(0, dtype=torch.float32)
    drops = any(isinstance(part, nn.Dropout) and part.p > 0 for part in head.modules())
    pieces = []
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
        pieces.append(
            checkpoint(_piece, head, rows, wanted, use_reentrant=False, preserve_rng_state=drops)
        )
    return torch.cat(pieces)


def _piece(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(head(hidden).float(), targets, reduction="none")
