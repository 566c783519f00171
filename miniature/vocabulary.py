"""What the stand-in world can name: objects of rendered scenes and of everyday photographs."""

from __future__ import annotations

import re
from functools import lru_cache

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
SIZES = ("small", "large")
PLACES = (
    "top left",
    "top middle",
    "top right",
    "middle left",
    "centre",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)

# The 80 object names of MS COCO (Lin et al. 2014, "Microsoft COCO: Common Objects in Context").
PHOTO_OBJECTS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
SCENE_OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

_SCENE_OBJECT = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
# Longest first: "hot dog" must not be read as "dog". A colour before a shape is no fruit.
_NAMES = "|".join(sorted(map(re.escape, PHOTO_OBJECTS), key=len, reverse=True))
_OBJECT = re.compile(rf"\b({_SCENE_OBJECT}|{_NAMES})(?:e?s)?\b", re.IGNORECASE)
_THERE_IS = re.compile(
    r"\bthere (?:is|are)(?: also)? (?:an?|no|some) ([\w -]+?)(?: in the \w+)?[.!?]"
)
SCENE_SENTENCE = re.compile(rf"^an? (?:{'|'.join(SIZES)}) {_SCENE_OBJECT} is at the [\w ]+\.$")


def with_article(name: str) -> str:
    """ "umbrella" -> "an umbrella"."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


@lru_cache(maxsize=4096)
def _mention(name: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(name)}(?:e?s)?\b", re.IGNORECASE)


def mentions(text: str, name: str) -> bool:
    """Whether `text` names the object, singular or plural, as whole words."""
    return _mention(name).search(text) is not None


def objects_named(sentence: str) -> list[str]:
    """The objects a sentence names, in order, each once, in lower case.

    Known names, and whatever stands in "There is a ... in the picture."
    """
    lower = sentence.lower()
    found = [match.group(1) for match in _OBJECT.finditer(lower)]
    for match in _THERE_IS.finditer(lower):
        if not _OBJECT.search(match.group(1)):
            found.append(match.group(1))
    return list(dict.fromkeys(found))
