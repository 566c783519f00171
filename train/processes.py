"""What a run needs of its processes, over Accelerate: sums, gathered lists, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


class Processes:
    """One process without a launcher; as many as `accelerate launch` started with one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @property
    def count(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def index(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """Every process's items, on every process."""
        return list(gather_object(list(items)))

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sums by name; every process gives the same names."""
        if self.count == 1:
            return values
        names = sorted(values)
        made = torch.tensor(
            [values[name] for name in names],
            dtype=torch.float64,
            device=self._accelerator.device,
        )
        summed = self._accelerator.reduce(made, "sum").tolist()
        return dict(zip(names, summed, strict=True))

    def largest(self, value: float) -> float:
        return max(self.gather([value]))

    def any(self, flag: bool) -> bool:
        return self.sum({"flag": float(flag)})["flag"] > 0

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()
