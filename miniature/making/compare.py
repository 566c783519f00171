"""`python -m miniature.making.compare BEFORE AFTER --out FILE`: what training changed, as JSON.

Both models describe scenes of the split `test`, which neither a dataset nor the models' training
has seen, and answer questions about them; the scenes' truth is known exactly.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miniature.making import evaluate
from miniature.questions import Question, prompt
from miniature.scenes import Scene, make_scenes
from miniature.scoring import Scores, hallucinated

SCENES, SCENES_SEED = 200, 1
EXAMPLES = 2


@dataclass(frozen=True)
class Answered:
    """One model's greedy descriptions of the scenes, and its scores in percent."""

    texts: list[str]
    scores: Scores


@dataclass(frozen=True)
class Compared:
    scenes: Sequence[Scene]
    before: Answered
    after: Answered

    def cured(self) -> list[tuple[Scene, str, str]]:
        """Scene, old and new text, where only the old one names an object that is not there."""
        texts = zip(self.scenes, self.before.texts, self.after.texts, strict=True)
        return [
            (scene, old, new)
            for scene, old, new in texts
            if hallucinated(old, scene) and not hallucinated(new, scene)
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values: scores by name, and examples of what was cured."""
        return {
            "scenes": len(self.scenes),
            "before": asdict(self.before.scores),
            "after": asdict(self.after.scores),
            "examples": [
                {"objects": list(scene.objects), "before": old, "after": new}
                for scene, old, new in self.cured()[:EXAMPLES]
            ],
        }


def compare(before: Path, after: Path, scenes: int = SCENES) -> Compared:
    """Two models' folders on the same scenes."""
    made = make_scenes(scenes, SCENES_SEED, "test")
    return Compared(made, _answer(before, made), _answer(after, made))


def _answer(model: Path, scenes: Sequence[Scene]) -> Answered:
    network, processor = evaluate.load(model)
    asked = prompt(Question("describe"))
    texts = evaluate.answers(network, processor, [(scene.picture(), asked) for scene in scenes])
    return Answered(texts, evaluate.measure(network, processor, scenes, SCENES_SEED))


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m miniature.making.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="the model's folder before training")
    parser.add_argument("after", type=Path, help="the model's folder after training")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args(given)
    found = compare(options.before, options.after, options.scenes).as_dict()
    options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
