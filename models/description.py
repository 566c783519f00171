"""What the files of an image encoder say of it, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Description:
    """`weights` are the safetensors files that will be read, `architecture` the network's
    configuration as JSON-like values, `dimension` the length of its vectors."""

    name: str
    directory: Path
    weights: tuple[Path, ...]
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    dimension: int
