"""The recipe of every stage: what its digest stands for, and which digests lie under it.

A stage's digest covers what that stage itself does (model, prompt, sampling). What comes in from
the stages before it is in the key of each unit of work, by content: so an edit costs the stage
it touches and those units after it whose input text really changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from config.digest import digest
from config.recipe import Call, Recipe
from prompts import Prompt, load_prompt

EMBED_CLIP = "embed_clip"
EMBED_DINO = "embed_dino"
SCAN = "scan"
MINE = "mine"
CAPTION = "caption"
RESAMPLE = "resample"
EXTRACT = "extract"
REWRITE = "rewrite"
ASSEMBLE = "assemble"
INGEST = "ingest"

STAGES = (
    INGEST,
    EMBED_CLIP,
    SCAN,
    EMBED_DINO,
    MINE,
    CAPTION,
    RESAMPLE,
    EXTRACT,
    REWRITE,
    ASSEMBLE,
)

TABLE_OF = {
    EMBED_CLIP: "embeddings",
    EMBED_DINO: "embeddings",
    SCAN: "scans",
    MINE: "neighbours",
    CAPTION: "captions",
    RESAMPLE: "answers",
    EXTRACT: "extractions",
    REWRITE: "rewrites",
}

IMAGES = "content"  # the images table has no recipe: an image is its bytes


@dataclass(frozen=True)
class Chain:
    """The recipes of all stages of one run and their digests.

    `prompts` are those that the digests cover, read once: a file that is edited while the run
    goes on is the next run's prompt.
    """

    recipe: Recipe
    recipes: dict[str, dict[str, Any]]
    prompts: dict[str, Prompt] = field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        return {stage: digest(parts) for stage, parts in self.recipes.items()}

    def of(self, stage: str) -> str:
        return digest(self.recipes[stage])


def make_chain(recipe: Recipe, clip: dict[str, Any], dino: dict[str, Any] | None) -> Chain:
    """`clip` and `dino` are the encoders' identities (name, weights' digest, preprocessing)."""
    mine = recipe.mine
    recipes: dict[str, dict[str, Any]] = {EMBED_CLIP: {"stage": "embed", "model": clip}}
    if dino is not None:
        recipes[EMBED_DINO] = {"stage": "embed", "model": dino}
    scan: dict[str, Any] = {
        "stage": SCAN,
        "clip": digest(recipes[EMBED_CLIP]),
        "strategy": mine.strategy,
        "near_duplicate": mine.near_duplicate,
    }
    if mine.strategy == "blind":
        scan["clip_min"] = mine.clip_min
    recipes[SCAN] = scan
    recipes[MINE] = {
        "stage": MINE,
        "scan": digest(scan),
        "dino": digest(recipes[EMBED_DINO]) if dino is not None else None,
    }
    if mine.strategy == "blind":
        recipes[MINE]["dino_max"] = mine.dino_max
    prompts = {
        CAPTION: load_prompt(recipe.caption.prompt),
        EXTRACT: load_prompt(recipe.extract.prompt),
        REWRITE: load_prompt(recipe.rewrite.prompt),
    }
    recipes[CAPTION] = _call(CAPTION, recipe.caption, prompts[CAPTION])
    recipes[RESAMPLE] = {**_call(RESAMPLE, recipe.resample, None), "seed": recipe.seed}
    recipes[EXTRACT] = _call(EXTRACT, recipe.extract, prompts[EXTRACT])
    recipes[REWRITE] = _call(REWRITE, recipe.rewrite, prompts[REWRITE])
    return Chain(recipe, recipes, prompts)


def _call(stage: str, call: Call, prompt: Prompt | None) -> dict[str, Any]:
    # K is left out of resample: raising it asks for more samples, it does not change any.
    # max_asks is left out: it decides how long to try, not what a good answer is.
    parts = call.model_dump(mode="json", exclude={"prompt", "k", "min_answers", "max_asks"})
    if prompt is not None:
        parts["prompt"] = {"name": prompt.name, "digest": prompt.digest}
    return {"stage": stage, **parts}
