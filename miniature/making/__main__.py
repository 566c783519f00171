"""Makes the four models of the miniature world from nothing: `python -m miniature.making`.

A model that stands in the folder and was made by the same recipe is kept; so a run that was cut
off goes on with the model that it was at.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from miniature.making import clip, dino, evaluate, vlm
from miniature.making.recipe import Recipe
from miniature.making.training import Report, device, pixels
from miniature.scenes import Scene, make_scenes

SHIPPED = Path(__file__).parents[1] / "weights"
MODELS = ("clip", "dino", "reference", "captioner")
MEASURED = 400  # scenes of the validation and of the test split
BLIND_AMONG = 1_500  # test scenes among which CLIP-blind pairs are counted


class Maker:
    """Makes the models of one recipe in one folder, and keeps account in its `recipe.json`."""

    def __init__(self, recipe: Recipe, out: Path, say: Report) -> None:
        self._recipe, self._out, self._say = recipe, out, say
        self._account = out / "recipe.json"
        self._known = self._read()
        self._scenes: list[Scene] = []
        self._pixels = torch.empty(0)

    def make(self) -> None:
        """Makes the models that are not there."""
        missing = [name for name in MODELS if name not in self._known["models"]]
        if missing:
            self._scenes = make_scenes(self._recipe.scenes)
            self._pixels = pixels(self._scenes)
        for name in missing:
            began = time.perf_counter()
            getattr(self, f"_{name}")()
            weights = sorted((self._out / name).glob("*.safetensors"))
            self._known["models"][name] = {
                "seconds": round(time.perf_counter() - began),
                "parameters": sum(t.numel() for path in weights for t in load_file(path).values()),
                "bytes": sum(path.stat().st_size for path in weights),
            }
            self._write()

    def measure(self, scenes: int = MEASURED, among: int = BLIND_AMONG) -> None:
        """Scores both language models on validation and test scenes, and counts blind pairs."""
        scores: dict[str, Any] = {}
        for name in ("reference", "captioner"):
            model, processor = evaluate.load(self._out / name)
            scores[name] = {
                split: asdict(evaluate.measure(model, processor, make_scenes(scenes, split=split)))
                for split in ("validation", "test")
            }
            self._say(f"{name}: {scores[name]}")
        found = evaluate.blind_pairs(
            self._out / "clip", self._out / "dino", make_scenes(among, split="test")
        )
        self._say(f"CLIP-blind pairs among {among} test scenes: {found}")
        self._known["scores"] = {"scenes": scenes, **scores}
        self._known["blind_pairs"] = {"scenes": among, "pairs": found}
        self._write()

    def _clip(self) -> None:
        model = clip.train(self._recipe, self._scenes, self._pixels, self._say)
        clip.save(model, self._recipe, self._out / "clip")

    def _dino(self) -> None:
        model = dino.train(self._recipe, self._scenes, self._pixels, self._say)
        dino.save(model, self._recipe, self._out / "dino")

    def _reference(self) -> None:
        state = load_file(self._out / "clip" / "open_clip_model.safetensors")
        tower: dict[str, Tensor] = clip.vision_weights(state, self._recipe.tower.layers)
        model = vlm.build(self._recipe, tower)
        self._train(model, truthful=False)
        vlm.save(model, self._recipe, self._out / "reference")

    def _captioner(self) -> None:
        model, _ = evaluate.load(self._out / "reference")
        self._train(model, truthful=True)
        vlm.save(model, self._recipe, self._out / "captioner")

    def _train(self, model: Any, *, truthful: bool) -> None:
        run = self._recipe.captioner if truthful else self._recipe.reference
        vlm.train(
            model, run, self._recipe, self._scenes, self._pixels, truthful=truthful, say=self._say
        )

    def _read(self) -> dict[str, Any]:
        fresh = {"digest": self._recipe.digest, "recipe": asdict(self._recipe), "models": {}}
        if not self._account.exists():
            return fresh
        known: dict[str, Any] = json.loads(self._account.read_text(encoding="utf-8"))
        if known.get("digest") == fresh["digest"]:
            return known
        self._say(f"{self._account} tells of another recipe: all models are made anew")
        return fresh

    def _write(self) -> None:
        self._account.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._known, indent=1, sort_keys=True)
        self._account.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m miniature.making", description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder (default: the shipped)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the steps, for a try (default: all)"
    )
    arguments = parser.parse_args()
    recipe = Recipe() if arguments.share == 1 else Recipe().lasting(arguments.share)
    torch.set_num_threads(1)  # the fastest for models of this size
    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {line}", flush=True)

    say(f"recipe {recipe.digest} on {device()}, into {arguments.out}")
    maker = Maker(recipe, arguments.out, say)
    maker.make()
    maker.measure()


if __name__ == "__main__":
    main()
