"""Where the image encoders run, and in which number format."""

from __future__ import annotations

from typing import Literal

from config.errors import RecipeError

Precision = Literal["float32", "float16", "bfloat16"]


def choose_device(wanted: str) -> str:
    """The torch device for a setting: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Anything else is "cpu", "mps", "cuda" or "cuda:<index>". Raises RecipeError where the machine
    does not have what was asked for.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cpu":
        return wanted
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise RecipeError('device "mps" is not available here; expected "auto" or "cpu"')
        return wanted
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or (":" in wanted and not index.isdecimal()):
        raise RecipeError(
            f'device {wanted!r} is not known; expected "auto", "cpu", "mps", "cuda" or "cuda:0"'
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise RecipeError(
            f"device {wanted!r} was asked for and torch sees {count} CUDA devices; "
            'use "auto" or "cpu", or check the driver and CUDA_VISIBLE_DEVICES'
        )
    return wanted


def choose_precision(
    wanted: Literal["auto", "float32", "float16", "bfloat16"], device: str
) -> Precision:
    """The format of the networks' products: "auto" is float16 on CUDA and float32 elsewhere.

    Weights stay float32; below that, products run under torch's autocast. Raises RecipeError
    where the device cannot do what was asked for.
    """
    import torch

    cuda = device.startswith("cuda")
    if wanted == "auto":
        return "float16" if cuda else "float32"
    if wanted == "bfloat16" and cuda:
        with torch.cuda.device(device):
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        if not able:
            raise RecipeError(
                f'{device} cannot compute in bfloat16; use precision "float16" or "float32"'
            )
    if wanted == "float16" and device == "cpu":
        raise RecipeError(
            "float16 on a CPU is slower than float32 and less exact; "
            'use precision "auto" or "float32"'
        )
    return wanted
