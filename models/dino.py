"""DINOv2 encoders, from transformers checkpoints (Oquab et al. 2023; Darcet et al. 2023).

The vector is the class token of the last layer after the final layer norm: the `pooler_output`
of transformers, the `x_norm_clstoken` of the original code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from config.errors import RecipeError
from models.description import Description
from models.hub import no_weights, read_json, resolve
from models.preprocessing import Preprocessing, square, triple

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CLASSES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
PROCESSORS = ("BitImageProcessor", "BitImageProcessorFast", "BitImageProcessorPil")
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
INTERPOLATIONS: dict[object, Literal["lanczos", "bilinear", "bicubic"]] = {
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}

# Parts of config.json that say how a file was written, not what the network computes.
WRITING = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "auto_map"}
)


def describe(model: str) -> Description:
    """A DINOv2 checkpoint's files and parameters; fetches them where they are not local.

    `model` is a local directory or a repository in transformers' format. Raises RecipeError.
    """
    source = resolve(model, [CONFIG, PROCESSOR, INDEX, "model*.safetensors"])
    config_path = source.directory / CONFIG
    config = read_json(config_path)
    if config.get("model_type") not in CLASSES:
        raise RecipeError(
            f"{config_path}: model_type is {config.get('model_type')!r}; "
            f"expected one of {sorted(CLASSES)}"
        )
    if not isinstance(config.get("hidden_size"), int):
        raise RecipeError(f"{config_path}: hidden_size is missing; expected a number")
    if (source.directory / "adapter_config.json").exists():
        raise RecipeError(
            f"{source.directory} holds an adapter (adapter_config.json); expected whole weights: "
            "merge the adapter into the model and save that"
        )
    return Description(
        name=source.name,
        directory=source.directory,
        weights=_weights(source.directory),
        architecture={key: value for key, value in config.items() if key not in WRITING},
        preprocessing=_preprocessing(source.directory / PROCESSOR),
        dimension=config["hidden_size"],
    )


def build(description: Description, device: str) -> Callable[[Tensor], Tensor]:
    """The network on a device: float32 pixels [n, 3, side, side] to vectors [n, dimension].

    Raises RecipeError where the weights do not fit the configuration.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    chosen = getattr(transformers, CLASSES[description.architecture["model_type"]])
    try:
        network, loading = chosen.from_pretrained(
            description.directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError, TypeError, ValueError, OSError, ImportError) as error:
        raise RecipeError(
            f"DINOv2 {description.name!r} cannot be loaded: {error}; "
            f"give a checkpoint whose weights and {CONFIG} belong together"
        ) from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise RecipeError(
            f"the weights of DINOv2 {description.name!r} lack {len(missing)} tensors "
            f"({', '.join(missing[:3])}); expected all of them, or they would be random"
        )
    network.eval().to(device)

    def features(pixels: Tensor) -> Tensor:
        token: Tensor = network(pixel_values=pixels).last_hidden_state[:, 0]
        return token

    return features


def _weights(directory: Path) -> tuple[Path, ...]:
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if not (directory / INDEX).is_file():
        raise no_weights(directory, WEIGHTS)
    places = read_json(directory / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise RecipeError(f"{directory / INDEX} has no weight_map; expected one")
    paths = tuple(directory / str(name) for name in sorted(set(places.values())))
    for path in paths:
        if path.parent != directory or path.suffix != ".safetensors" or not path.is_file():
            raise RecipeError(
                f"{directory / INDEX} names {path.name}; "
                f"expected a safetensors file of that name in {directory}"
            )
    return paths


def _preprocessing(path: Path) -> Preprocessing:
    given = read_json(path)
    kind = given.get("image_processor_type")
    if kind not in PROCESSORS:
        raise RecipeError(f"{path}: image_processor_type is {kind!r}; expected {PROCESSORS[0]!r}")
    for key in STEPS:
        if given.get(key) is not True:
            raise RecipeError(f"{path}: {key} is {given.get(key)!r}; expected true")
    if given.get("resample") not in INTERPOLATIONS:
        raise RecipeError(
            f"{path}: resample is {given.get('resample')!r}; "
            f"expected one of {INTERPOLATIONS} (Pillow's numbers)"
        )
    mode, side = _resize(given.get("size"), path)
    return Preprocessing(
        resize=mode,
        resize_to=side,
        crop=square(given.get("crop_size"), f"{path}: crop_size"),
        crop_offset="down",
        interpolation=INTERPOLATIONS[given["resample"]],
        rescale=_number(given.get("rescale_factor"), f"{path}: rescale_factor"),
        mean=triple(given.get("image_mean"), f"{path}: image_mean"),
        std=triple(given.get("image_std"), f"{path}: image_std"),
    )


def _resize(size: Any, path: Path) -> tuple[Literal["shortest"], int]:
    """A resize by the short side, as {"shortest_edge": 256} or, in older files, 256."""
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    others = set(size) - {"shortest_edge"} if isinstance(size, dict) else set()
    if others or not isinstance(edge, int):
        raise RecipeError(f'{path}: size is {size!r}; expected {{"shortest_edge": pixels}}')
    return "shortest", edge


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float):
        raise RecipeError(f"{where} is {value!r}; expected a number")
    return float(value)
