"""From an image to an encoder's input, with Pillow and numpy alone.

Both encoders' libraries offer several backends for this, which differ in the last bits and in
the code that is imported. Here the parameters are read from the model's own files, they are part
of its identity, and one code path applies them on every machine. It agrees with open_clip's
transform and with the Pillow backend of transformers' BitImageProcessor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from config.errors import RecipeError, RowError

# Resizing the short side of a longer image would make an enormous one, of which the centre is kept.
MAX_ASPECT_RATIO = 100

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """All that is done to an image's pixels. Sizes are in pixels; images are square at the end.

    `resize` "shortest" scales the shorter side to `resize_to` and cuts a square of side `crop`
    from the centre; "squash" scales both sides to `crop`. `crop_offset` says how the libraries
    that the models come from round half a pixel: "even" (torchvision) or "down" (transformers).
    """

    resize: Literal["shortest", "squash"]
    resize_to: int
    crop: int
    crop_offset: Literal["even", "down"]
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    rescale: float
    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize_to:
            raise RecipeError(
                f"preprocessing crops to {self.crop} pixels after resizing to {self.resize_to}; "
                "expected a crop of at least one pixel and no larger than the resized image"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise RecipeError(
                f"preprocessing has mean {self.mean} and std {self.std}; "
                "expected three numbers each, the latter above zero"
            )

    def as_dict(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """The encoder's input, float32 [3, crop, crop], of one RGB image.

        Raises RowError for an image too long to be resized by its short side, and ValueError for
        an image that is not RGB.
        """
        if image.mode != "RGB":
            raise ValueError(f"an image of mode {image.mode!r} was given; expected 'RGB'")
        cut = self._resized(image)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = np.asarray(cut, dtype=np.float32) * np.float32(self.rescale)
        values: NDArray[np.float32] = np.divide(scaled - mean, std, dtype=np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _resized(self, image: Image.Image) -> Image.Image:
        method = RESAMPLING[self.interpolation]
        if self.resize == "squash":
            return image.resize((self.crop, self.crop), method)
        short, long = min(image.size), max(image.size)
        if long > MAX_ASPECT_RATIO * short:
            raise RowError(
                f"the image is {image.width} x {image.height} pixels; expected its long side to "
                f"be at most {MAX_ASPECT_RATIO} times its short side; cut it or leave it out"
            )
        width, height = (int(self.resize_to * side / short) for side in image.size)
        left, top = self._offset(width), self._offset(height)
        whole = image.resize((width, height), method)
        return whole.crop((left, top, left + self.crop, top + self.crop))

    def _offset(self, side: int) -> int:
        spare = side - self.crop
        return round(spare / 2) if self.crop_offset == "even" else spare // 2


def triple(values: object, where: str) -> Triple:
    """Three numbers from a configuration; one number stands for all three. Raises RecipeError."""
    given: Sequence[Any] = values if isinstance(values, list | tuple) else [values] * 3
    if len(given) != 3 or not all(isinstance(value, int | float) for value in given):
        raise RecipeError(f"{where} is {values!r}; expected three numbers")
    first, second, third = (float(value) for value in given)
    return (first, second, third)


def square(size: object, where: str) -> int:
    """The side of a square size given as 224, [224, 224] or {height, width}. Raises RecipeError."""
    sides: object = size
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        sides = [size["height"], size["width"]]
    if isinstance(sides, list | tuple) and len(sides) == 2 and sides[0] == sides[1]:
        sides = sides[0]
    if isinstance(sides, int) and not isinstance(sides, bool):
        return sides
    raise RecipeError(f"{where} is {size!r}; expected the side of a square, in pixels")
