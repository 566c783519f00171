"""SDPA in two calls: what all sequences' prefixes have in common without a mask, the rest with one.

A kernel that is given a mask computes every pair of tokens. Over the columns that are prefix in
every sequence, attention is plainly causal: without a mask half the pairs are never computed, and a
GPU may take its flash kernel. Only the tokens behind them, a third at most of an image's prompt with
its responses, need the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_shared_prefix"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared_prefix: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """[S, L, heads, width], as transformers' own attention functions.

    shared_prefix: how many columns are prefix in every sequence, 1 or more; attention_mask is then
    the shared layout's [S, 1, L, L]. Without it (the naive layout, generation) it is plain SDPA.
    """
    if shared_prefix is None or attention_mask is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return found
    end = shared_prefix
    prefix, _ = sdpa_attention_forward(
        module, query[:, :, :end], key[:, :, :end], value[:, :, :end], None, **options
    )
    rest, _ = sdpa_attention_forward(
        module, query[:, :, end:], key, value, attention_mask[:, :, end:], **options
    )
    return torch.cat([prefix, rest], 1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(base: Any) -> None:
    """Lets the language model of a transformers model attend by `attention`; no checkpoint tells."""
    base.set_attn_implementation({"text_config": NAME})
