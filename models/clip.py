"""CLIP image towers, from open_clip checkpoints (Radford et al. 2021; Ilharco et al. 2021).

The vector is the image tower's projected output, what open_clip's `encode_image` gives before it
is normalised. Only the image tower is built, and of the weights only its tensors are read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import RecipeError
from models.description import Description
from models.hub import REPOSITORY, no_weights, read_json, resolve
from models.preprocessing import Preprocessing, square, triple

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
TOWER = "visual."

# open_clip's own values where a configuration is silent (open_clip.transform.PreprocessCfg).
DEFAULTS: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
DEFAULT_IMAGE_SIZE = 224


def describe(model: str) -> Description:
    """A CLIP checkpoint's files and parameters; fetches them where they are not local.

    `model` is a local directory or a repository in open_clip's format, or an architecture and tag
    of open_clip's table ("ViT-L-14-336/openai"), which names such a repository. Raises RecipeError.
    """
    source = resolve(model, [CONFIG, "open_clip*.safetensors"], _tagged_repository(model))
    config_path = source.directory / CONFIG
    config = read_json(config_path)
    try:
        tower = dict(config["model_cfg"]["vision_cfg"])
        dimension = int(config["model_cfg"]["embed_dim"])
        quick_gelu = bool(config["model_cfg"].get("quick_gelu", False))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{config_path} is not an open_clip configuration ({error!r}); "
            "expected model_cfg with embed_dim and vision_cfg"
        ) from error
    if ":" in str(tower.get("timm_model_name") or ""):
        raise RecipeError(
            f"{config_path} names a network elsewhere: {tower['timm_model_name']!r}; "
            "expected the name of one of timm's own"
        )
    tower["timm_model_pretrained"] = False  # or timm would fetch weights of its own
    return Description(
        name=source.name,
        directory=source.directory,
        weights=(_weights(source.directory),),
        architecture={"embed_dim": dimension, "vision_cfg": tower, "quick_gelu": quick_gelu},
        preprocessing=_preprocessing(config, tower, config_path),
        dimension=dimension,
    )


def build(description: Description, device: str) -> Callable[[Tensor], Tensor]:
    """The image tower on a device: float32 pixels [n, 3, side, side] to vectors [n, dimension].

    Raises RecipeError where the weights do not fit the configuration.
    """
    # open_clip offers no public way to build one tower; its whole model would need the text
    # tower's files, which a hub may have to be asked for.
    from open_clip.model import _build_vision_tower
    from safetensors import SafetensorError, safe_open

    shape = description.architecture
    path = description.weights[0]
    try:
        tower = _build_vision_tower(shape["embed_dim"], shape["vision_cfg"], shape["quick_gelu"])
        with safe_open(path, framework="pt") as stored:
            names = [name for name in stored.keys() if name.startswith(TOWER)]  # noqa: SIM118
            weights = {name.removeprefix(TOWER): stored.get_tensor(name) for name in names}
        tower.load_state_dict(weights, strict=True)
    except (SafetensorError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise RecipeError(
            f"the CLIP image tower of {description.name!r} cannot be built from {path.name}: "
            f"{error}; give a checkpoint whose weights and {CONFIG} belong together"
        ) from error
    tower.eval().to(device)

    def features(pixels: Tensor) -> Tensor:
        found = tower(pixels)
        pooled: Tensor = (
            found[0] if isinstance(found, tuple) else found
        )  # CoCa gives its tokens too
        return pooled

    return features


def _tagged_repository(model: str) -> str | None:
    """The repository of "ARCHITECTURE/tag" in open_clip's table; None for any other name."""
    architecture, slash, tag = model.partition("/")
    package = importlib.util.find_spec("open_clip")
    if not slash or package is None or Path(model).is_dir():
        return None
    folder = Path(str((package.submodule_search_locations or [""])[0])) / "model_configs"
    if not REPOSITORY.fullmatch(model) or not (folder / f"{architecture}.json").is_file():
        return None
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    entry = get_pretrained_cfg(architecture, tag)
    if not entry:
        raise RecipeError(
            f"open_clip knows no weights {tag!r} of {architecture!r}; expected one of "
            f"{list_pretrained_tags_by_model(architecture)}, a repository or a local directory"
        )
    repository = "/".join(str(entry.get("hf_hub") or "").split("/")[:2])
    if not repository:
        raise RecipeError(
            f"open_clip has {model!r} as a pickle only, which is never loaded here; "
            "give a repository or directory with safetensors"
        )
    return repository


def _weights(directory: Path) -> Path:
    for name in WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise no_weights(directory, WEIGHTS[0])
    if len(found) > 1:
        raise RecipeError(
            f"{directory} holds {', '.join(path.name for path in found)}; expected one of them, "
            f"or one named {WEIGHTS[0]}"
        )
    return found[0]


def _preprocessing(config: dict[str, Any], tower: dict[str, Any], path: Path) -> Preprocessing:
    given = {k: v for k, v in (config.get("preprocess_cfg") or {}).items() if v is not None}
    chosen = DEFAULTS | given
    # As in open_clip, the tower's image size wins over the one of preprocess_cfg.
    side = square(tower.get("image_size", DEFAULT_IMAGE_SIZE), f"{path}: image_size")
    if chosen["resize_mode"] not in ("shortest", "squash"):
        raise RecipeError(
            f"{path}: resize_mode is {chosen['resize_mode']!r}; expected 'shortest' or 'squash'"
        )
    if chosen["interpolation"] not in ("bicubic", "bilinear"):
        raise RecipeError(
            f"{path}: interpolation is {chosen['interpolation']!r}; "
            "expected 'bicubic' or 'bilinear'"
        )
    return Preprocessing(
        resize=chosen["resize_mode"],
        resize_to=side,
        crop=side,
        crop_offset="even",
        interpolation=chosen["interpolation"],
        rescale=1 / 255,
        mean=triple(chosen["mean"], f"{path}: mean"),
        std=triple(chosen["std"], f"{path}: std"),
    )
