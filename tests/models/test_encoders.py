"""Image encoders on tiny checkpoints of the real networks, saved and loaded like large ones."""

import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from config.errors import RecipeError, RefusedImage, StageStopped
from config.settings import Embedding
from miniature.checkpoints import make_clip, make_dino
from models.encoders import MAX_WORKERS, TorchEncoder, load_encoder
from models.identity import identify

CPU = Embedding(device="cpu", batch_size=4)
TOWERS = {
    "vit": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "timm": {
        "image_size": 64,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "linear",
    },
}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}


def save_clip(folder, tower):
    from open_clip.model import CLIP

    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = {k: v.contiguous() for k, v in CLIP(**config).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", seed=1)


def save_dino_with_registers(folder):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    config = Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=70
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        Dinov2WithRegistersModel(config).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    BitImageProcessorPil(size={"shortest_edge": 64}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[make_dino, save_dino_with_registers])
def dino_folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("dino") / "tiny-dino")


@pytest.fixture(scope="module")
def photos():
    draw = np.random.default_rng(3)
    sizes = draw.integers(30, 200, (11, 2))
    return [
        Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes.tolist()
    ]


@pytest.fixture(scope="module")
def clip_encoder(clip_folder, tmp_path_factory):
    return load_encoder(
        "clip", str(clip_folder), cache_dir=tmp_path_factory.mktemp("cache"), embedding=CPU
    )


def unit_float16(vectors):
    return torch.nn.functional.normalize(vectors, dim=1).half().numpy()


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / folder.name)


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_clip_vectors_are_open_clips(tmp_path, photos, tower):
    import open_clip

    folder = save_clip(tmp_path / tower, tower)
    whole, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.inference_mode():
        pixels = torch.stack([transform(photo) for photo in photos])
        expected = unit_float16(whole.eval().encode_image(pixels))
    found = load_encoder("clip", str(folder), cache_dir=tmp_path, embedding=CPU).encode(photos)
    assert found.vectors.dtype == np.float16
    assert found.failed == {}
    np.testing.assert_allclose(found.vectors, expected, atol=6e-4)


def test_dino_vectors_are_the_class_token_of_transformers(dino_folder, tmp_path, photos):
    from transformers import AutoImageProcessor, AutoModel

    encoder = load_encoder("dino", str(dino_folder), cache_dir=tmp_path, embedding=CPU)
    processor = AutoImageProcessor.from_pretrained(dino_folder, backend="pil")
    with torch.inference_mode():
        inputs = processor(photos, return_tensors="pt")
        expected = unit_float16(AutoModel.from_pretrained(dino_folder)(**inputs).pooler_output)
    np.testing.assert_allclose(encoder.encode(photos).vectors, expected, atol=6e-4)
    assert encoder.identity == identify("dino", str(dino_folder), tmp_path)


def test_the_loaded_encoders_identity_is_the_one_told_without_loading(
    clip_folder, clip_encoder, tmp_path
):
    assert clip_encoder.identity == identify("clip", str(clip_folder), tmp_path)
    assert clip_encoder.identity.name == "tiny-clip"
    assert clip_encoder.identity.dimension == 32


def test_rows_have_length_one_before_rounding(clip_encoder, photos):
    lengths = np.linalg.norm(clip_encoder.encode(photos).vectors.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2**-11)


def test_a_vector_does_not_depend_on_the_images_beside_it(clip_encoder, photos):
    together = clip_encoder.encode(photos).vectors
    alone = np.concatenate([clip_encoder.encode([photo]).vectors for photo in photos])
    backwards = clip_encoder.encode(photos[::-1]).vectors[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert len({row.tobytes() for row in together}) == len(photos)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_on_a_cpu_a_vector_does_not_depend_on_the_batch_size(
    clip_folder, clip_encoder, photos, tmp_path, batch_size
):
    settings = Embedding(device="cpu", batch_size=batch_size)
    other = load_encoder("clip", str(clip_folder), cache_dir=tmp_path, embedding=settings)
    assert np.array_equal(other.encode(photos).vectors, clip_encoder.encode(photos).vectors)


def test_bfloat16_is_close_and_the_answer_stays_float16(
    clip_folder, clip_encoder, photos, tmp_path
):
    settings = Embedding(device="cpu", precision="bfloat16")
    rough = load_encoder("clip", str(clip_folder), cache_dir=tmp_path, embedding=settings)
    found, exact = rough.encode(photos).vectors, clip_encoder.encode(photos).vectors
    assert found.dtype == np.float16
    assert not np.array_equal(found, exact)
    assert np.einsum("nd,nd->n", found.astype(float), exact.astype(float)).min() > 0.99


def test_no_images_give_no_vectors(clip_encoder):
    found = clip_encoder.encode([])
    assert found.vectors.shape == (0, 32)
    assert found.failed == {}


def test_an_image_that_cannot_be_encoded_fails_alone(clip_encoder, photos, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(jpeg(photos[0])[:-200])
    mixed = [photos[0], Image.new("RGB", (1, 4000)), photos[1], Image.open(tmp_path / "cut.jpg")]
    mixed += photos[2:5]
    found = clip_encoder.encode(mixed)
    assert sorted(found.failed) == [1, 3]
    assert "1 x 4000" in found.failed[1]
    assert "cannot be decoded" in found.failed[3]
    assert not found.vectors[[1, 3]].any()
    right = clip_encoder.encode(photos[:5]).vectors
    assert np.array_equal(found.vectors[[0, 2, 4, 5, 6]], right)


def test_images_are_opened_one_by_one_and_a_refused_one_fails_alone(clip_encoder, photos):
    """Two hundred photographs decoded at once would not fit in memory."""
    alive, most = set(), [0]

    class Watched:
        def __init__(self, number, image):
            self.number, self.image = number, image

        def __call__(self):
            if self.number == 2:
                raise RefusedImage("truncated", "cut off")
            opened = self.image.copy()
            alive.add(self.number)
            weakref.finalize(opened, alive.discard, self.number)
            most[0] = max(most[0], len(alive))
            return opened

    many = [photos[n % 5] for n in range(60)]
    found = clip_encoder.encode([Watched(n, image) for n, image in enumerate(many)])
    assert found.failed == {2: "cut off"}
    assert np.array_equal(found.vectors[:2], clip_encoder.encode(many[:2]).vectors)
    assert most[0] <= MAX_WORKERS


def jpeg(image):
    from io import BytesIO

    stream = BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_an_image_that_is_not_rgb_stops_the_caller(clip_encoder, photos):
    with pytest.raises(ValueError, match="'L'"):
        clip_encoder.encode([*photos, photos[0].convert("L")])


class Scripted:
    """A network that gives each image its mean colour, and what it is told for black ones."""

    def __init__(self, for_black, dimension=3):
        self.for_black = torch.tensor(for_black)
        self.dimension = dimension
        self.shapes = []

    def __call__(self, pixels):
        self.shapes.append(tuple(pixels.shape))
        means = pixels.mean(dim=(2, 3))
        black = (means == 0).all(dim=1)
        return torch.where(black[:, None], self.for_black, means)[:, : self.dimension]


def scripted(clip_encoder, network, **options):
    plain = replace(clip_encoder.identity.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    identity = replace(clip_encoder.identity, preprocessing=plain, dimension=3)
    return TorchEncoder(
        network, identity, device="cpu", precision="float32", batch_size=4, **options
    )


BLACK, RED = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), (255, 0, 0))
SKEW = Image.new("RGB", (64, 64), (51, 0, 68))  # .2, 0, .26667: 3-4-5, so .6, 0, .8


@pytest.mark.parametrize("bad", [[0.0, 0.0, 0.0], [1.0, float("nan"), 0.0], [float("inf"), 0, 0]])
def test_a_zero_or_infinite_vector_fails_that_image_alone(clip_encoder, bad):
    found = scripted(clip_encoder, Scripted(bad)).encode([RED, BLACK, SKEW])
    assert list(found.failed) == [1]
    assert "zero or NaN" in found.failed[1]
    np.testing.assert_allclose(
        found.vectors.astype(float), [[1, 0, 0], [0, 0, 0], [0.6, 0, 0.8]], atol=5e-4
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_short_and_very_long_vectors_have_a_direction(clip_encoder, scale):
    network = Scripted([3 * scale, 0.0, 4 * scale])
    found = scripted(clip_encoder, network).encode([BLACK])
    np.testing.assert_allclose(found.vectors.astype(float), [[0.6, 0, 0.8]], atol=5e-4)


def test_every_pass_has_the_same_shape_and_the_filling_leaves_no_trace(clip_encoder):
    network = Scripted([0.0, 1.0, 0.0])
    found = scripted(clip_encoder, network, rows_a_pass=4).encode([RED] * 4 + [SKEW])
    assert network.shapes == [(4, 3, 48, 48), (4, 3, 48, 48)]
    assert found.failed == {}
    np.testing.assert_allclose(
        found.vectors[3:].astype(float), [[1, 0, 0], [0.6, 0, 0.8]], atol=5e-4
    )


def test_on_a_cpu_every_image_passes_alone(clip_encoder):
    network = Scripted([0.0, 1.0, 0.0])
    scripted(clip_encoder, network).encode([RED, SKEW, RED, SKEW, RED])
    assert network.shapes == [(1, 3, 48, 48)] * 5


def test_vectors_of_another_length_than_stated_are_refused(clip_encoder):
    with pytest.raises(RecipeError, match="state 3 values"):
        scripted(clip_encoder, Scripted([0.0, 0.0, 1.0], dimension=2)).encode([RED])


def test_a_device_out_of_memory_stops_the_stage_and_says_what_to_lower(clip_encoder):
    def full(pixels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StageStopped, match=r"embedding\.batch_size"):
        scripted(clip_encoder, full).encode([RED])


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="cuda"):
        load_encoder("clip", str(tmp_path), cache_dir=tmp_path, embedding=Embedding(device="cuda"))


def test_a_pickle_beside_the_safetensors_is_never_opened(
    clip_folder, dino_folder, clip_encoder, tmp_path, photos
):
    clip, dino = copied(clip_folder, tmp_path), copied(dino_folder, tmp_path)
    for path in (clip / "open_clip_pytorch_model.bin", dino / "pytorch_model.bin"):
        path.write_bytes(b"not even a pickle")
    (clip / "open_clip_model.safetensors").rename(clip / "other.safetensors")
    found = load_encoder("clip", str(clip), cache_dir=tmp_path, embedding=CPU)
    assert np.array_equal(found.encode(photos).vectors, clip_encoder.encode(photos).vectors)
    load_encoder("dino", str(dino), cache_dir=tmp_path, embedding=CPU)


def test_clip_weights_that_do_not_fit_are_refused(clip_folder, tmp_path):
    folder = copied(clip_folder, tmp_path)
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    del weights["visual.proj"]
    save_file(weights, path)
    with pytest.raises(RecipeError, match=r"visual|proj"):
        load_encoder("clip", str(folder), cache_dir=tmp_path, embedding=CPU)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0 no json")
    with pytest.raises(RecipeError, match="belong together"):
        load_encoder("clip", str(folder), cache_dir=tmp_path, embedding=CPU)


def test_dino_weights_that_do_not_fit_are_refused_and_never_random(dino_folder, tmp_path):
    folder = copied(dino_folder, tmp_path)
    path = folder / "model.safetensors"
    weights = load_file(path)
    whole = dict(weights)
    del weights["layernorm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"lack 1 tensors \(layernorm\.weight\)"):
        load_encoder("dino", str(folder), cache_dir=tmp_path, embedding=CPU)
    save_file({**whole, "layernorm.weight": torch.zeros(7)}, path, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="belong together"):
        load_encoder("dino", str(folder), cache_dir=tmp_path, embedding=CPU)


def test_code_beside_a_model_never_runs(dino_folder, tmp_path):
    folder = copied(dino_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Trap", "AutoConfig": "modeling.Trap"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    load_encoder("dino", str(folder), cache_dir=tmp_path, embedding=CPU)
    assert not (tmp_path / "ran").exists()
