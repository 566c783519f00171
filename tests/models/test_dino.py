"""What a DINOv2 checkpoint's files say of it: read strictly, without building the network."""

import json

import pytest

from config.errors import RecipeError
from models.dino import describe
from models.identity import identify

CONFIG = {"model_type": "dinov2", "hidden_size": 48, "num_hidden_layers": 2}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def dino_files(path, *, config=(), processor=(), weights=("model.safetensors",)):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **dict(config)}))
    settings = {k: v for k, v in {**PROCESSOR, **dict(processor)}.items() if v != "left out"}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    for name in weights:
        (path / name).write_bytes(name.encode())
    return str(path)


def test_parameters_come_from_the_files(tmp_path):
    found = describe(dino_files(tmp_path / "tiny"))
    assert (found.name, found.dimension) == ("tiny", 48)
    assert found.preprocessing.as_dict() == {
        "resize": "shortest",
        "resize_to": 256,
        "crop": 224,
        "crop_offset": "down",
        "interpolation": "bicubic",
        "rescale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_older_files_write_sizes_as_numbers(tmp_path):
    found = describe(dino_files(tmp_path / "tiny", processor={"size": 256, "crop_size": 224}))
    assert (found.preprocessing.resize_to, found.preprocessing.crop) == (256, 224)


@pytest.mark.parametrize("key", sorted(PROCESSOR))
def test_nothing_about_preprocessing_is_guessed(tmp_path, key):
    with pytest.raises(RecipeError, match=key.removeprefix("image_")):
        describe(dino_files(tmp_path / "tiny", processor={key: "left out"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"do_normalize": False},
        {"resample": 0},
        {"size": {"height": 256, "width": 256}},
        {"size": {"shortest_edge": 256, "longest_edge": 512}},
        {"crop_size": {"height": 224, "width": 112}},
        {"crop_size": 300},
        {"image_std": [0, 1, 1]},
    ],
)
def test_preprocessing_that_is_not_known_is_refused(tmp_path, wrong):
    with pytest.raises(RecipeError):
        describe(dino_files(tmp_path / "tiny", processor=wrong))


def test_another_kind_of_network_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="model_type is 'vit'"):
        describe(dino_files(tmp_path / "tiny", config={"model_type": "vit"}))
    with pytest.raises(RecipeError, match="hidden_size"):
        describe(dino_files(tmp_path / "tiny", config={"hidden_size": None}))


def test_pickles_alone_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"pytorch_model\.bin.*never loaded.*convert"):
        describe(dino_files(tmp_path / "tiny", weights=("pytorch_model.bin",)))


def test_an_adapter_is_refused(tmp_path):
    folder = dino_files(tmp_path / "tiny")
    (tmp_path / "tiny" / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="merge the adapter"):
        describe(folder)


def sharded(path, places):
    folder = dino_files(path, weights=("model-1.safetensors", "model-2.safetensors", "old.bin"))
    index = {"weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_those_of_the_index(tmp_path):
    places = {"c": "model-2.safetensors", "a": "model-1.safetensors", "b": "model-1.safetensors"}
    found = describe(sharded(tmp_path / "tiny", places))
    assert [path.name for path in found.weights] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize("name", ["model-3.safetensors", "../tiny/model-1.safetensors", "old.bin"])
def test_an_index_that_names_other_files_is_refused(tmp_path, name):
    with pytest.raises(RecipeError, match="index"):
        describe(sharded(tmp_path / "tiny", {"a": name}))


def test_the_identity_follows_what_decides_the_vectors_and_nothing_else(tmp_path):
    cache = tmp_path / "cache"

    def told(place, **changes):
        (tmp_path / place).mkdir()
        return identify("dino", dino_files(tmp_path / place / "tiny", **changes), cache)

    base = told("a")
    assert told("b") == base  # another folder
    assert told("c", config={"transformers_version": "9", "dtype": "float16"}) == base
    assert told("d", config={"num_hidden_layers": 3}) != base
    assert told("e", processor={"resample": 2}) != base
    different = tmp_path / "e" / "tiny" / "model.safetensors"
    before = identify("dino", str(different.parent), cache)
    different.write_bytes(b"other weights")
    assert identify("dino", str(different.parent), cache) != before


def test_an_identity_is_json(tmp_path):
    facts = identify("dino", dino_files(tmp_path / "tiny"), tmp_path / "cache").as_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {
        "name",
        "weights_digest",
        "architecture",
        "preprocessing",
        "dimension",
    }
    assert str(tmp_path) not in json.dumps(facts)
