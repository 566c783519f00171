"""Keys and values of a batch in buffers with room to grow.

transformers' DynamicLayer copies all of them for each token, which for models this small is most
of the work.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # positions that a buffer is made larger by


class RoomyLayer(DynamicLayer):
    """A DynamicLayer whose keys and values [rows, heads, positions, width] are views of buffers."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self._buffers = (self.keys, self.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds the new positions; gives all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.keys.shape[-2]
        length = before + key_states.shape[-2]
        if self._buffers[0].shape[-2] < length:
            self._buffers = (
                _larger(self.keys, length + ROOM),
                _larger(self.values, length + ROOM),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., before:length, :] = new
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows alone."""
        super().batch_select_indices(indices)
        self._buffers = (self.keys, self.values)


def roomy_cache() -> Cache:
    """An empty cache for any number of layers."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def _larger(values: Tensor, positions: int) -> Tensor:
    rows, heads, length, width = values.shape
    buffer = values.new_empty(rows, heads, positions, width)
    buffer[..., :length, :] = values
    return buffer
