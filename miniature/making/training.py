"""What the four trainings share: pixels, optimisers, the schedule, and folders written whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from miniature.making.recipe import Run
from miniature.scenes import Scene

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
CLIP_NORM = 1.0
PROJECTIONS = ("proj", "text_projection", "positional_embedding")  # open_clip's names
Report = Callable[[str], None]


def device() -> torch.device:
    """The graphics card where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pixels(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' pictures as uint8 [n, 3, side, side]."""
    stacked = np.stack([np.asarray(scene.picture()) for scene in scenes])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def normalised(raw: Tensor, where: torch.device) -> Tensor:
    """uint8 [n, 3, side, side] as the encoders' processors give it: float32, mean 0.5, std 0.25."""
    return (raw.to(where).float() / 255 - MEAN[0]) / STD[0]


class Optimiser:
    """Muon (Jordan et al. 2024) for the hidden matrices and AdamW for the rest.

    Embeddings and heads, which Muon does not suit, are those whose names say so.
    """

    def __init__(self, modules: Sequence[nn.Module], run: Run) -> None:
        named = [item for module in modules for item in module.named_parameters()]
        trained = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in trained if p.ndim == 2 and not _is_table(name)]
        others = [p for name, p in trained if p.ndim != 2 or _is_table(name)]
        self._run = run
        self._parameters = [*matrices, *others]
        muon = torch.optim.Muon(
            matrices, lr=run.matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=run.others, betas=(0.9, 0.98), weight_decay=0.0)
        self._both = (muon, adam)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in self._both]

    def step(self, loss: Tensor) -> None:
        """One step down a loss; its gradients are clipped to norm 1 and gone afterwards."""
        for optimiser in self._both:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        for optimiser, schedule in zip(self._both, self._schedules, strict=True):
            optimiser.step()
            schedule.step()

    def _rate(self, step: int) -> float:
        warm = max(1, round(self._run.steps * self._run.warm_up))
        if step < warm:
            return (step + 1) / warm
        return 1 - 0.9 * (step - warm) / max(1, self._run.steps - warm)


def _is_table(name: str) -> bool:
    *path, last = name.split(".")
    return "embed" in name or path[:1] in (["head"], ["lm_head"]) or last in PROJECTIONS


def rounds(n: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices below n, [batch] a step, in shuffled rounds."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(n, generator=generator)])
        yield order[:batch]
        order = order[batch:]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder that takes its name only once it is complete."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)
