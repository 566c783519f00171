"""Train, validation and test, so that no picture stands on two sides.

Images that one row names (m and m') and near duplicates are linked; a component of linked images
goes to one side whole. The side is drawn by a seeded hash of the component's smallest digest, so
it does not depend on the order of the rows, and rows that share no image with it never move it.
Shares hold in expectation: what was reached is in the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from config.digest import digest
from config.recipe import Split

SIDES = ("train", "validation", "test")
_HASH_DIGITS = 13  # 52 bits: every value is exact in a float


@dataclass(frozen=True)
class Splits:
    """The side of every row, in the order of the rows, and the shares that came out.

    `notes` says in words where the shares asked for could not be met.
    """

    sides: tuple[str, ...]
    rows: dict[str, int]
    reached: dict[str, float]
    components: int
    largest: float
    notes: tuple[str, ...]


class Components:
    """Union-find over image digests. The root of a component is its smallest digest."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, image: str) -> str:
        parent = self._parent
        parent.setdefault(image, image)
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    def link(self, a: str, b: str) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low


def assign_splits(
    pairs: Sequence[tuple[str, str | None]],
    near_duplicates: Iterable[tuple[str, str]],
    shares: Split,
    seed: int,
) -> Splits:
    """Sides for rows given as (m, m' or None), digests of 64 hex characters.

    `near_duplicates` are unordered pairs of digests; images of no row may be among them, and link
    the images they are near to.
    """
    components = Components()
    for a, b in near_duplicates:
        components.link(a, b)
    for image, other in pairs:
        components.link(image, image if other is None else other)
    roots = [components.root(image) for image, _ in pairs]
    sizes = Counter(roots)
    side_of = {root: draw_side(root, shares, seed) for root in sizes}
    sides = tuple(side_of[root] for root in roots)
    rows = {side: sides.count(side) for side in SIDES}
    total = max(len(sides), 1)
    return Splits(
        sides=sides,
        rows=rows,
        reached={side: rows[side] / total for side in SIDES},
        components=len(sizes),
        largest=max(sizes.values(), default=0) / total,
        notes=_notes(sizes, side_of, rows, shares),
    )


def draw_side(root: str, shares: Split, seed: int) -> str:
    """The side of the component whose smallest digest is `root`: u in [0, 1) against the shares.

    Test and validation take the low end, so that growing one of them at the cost of train moves
    components out of train alone.
    """
    u = int(digest([seed, root])[:_HASH_DIGITS], 16) / 16**_HASH_DIGITS
    asked = [(side, share) for side in reversed(SIDES) if (share := getattr(shares, side)) > 0]
    edge = 0.0
    for side, share in asked[:-1]:
        edge += share
        if u < edge:
            return side
    return asked[-1][0]


def _notes(
    sizes: Counter[str], side_of: dict[str, str], rows: dict[str, int], shares: Split
) -> tuple[str, ...]:
    total = sum(rows.values())
    if not total:
        return ()
    notes = []
    for side in SIDES:
        asked = getattr(shares, side)
        largest = max((n for root, n in sizes.items() if side_of[root] == side), default=0)
        if largest > asked * total:
            notes.append(
                f"{side} was to get {asked:.1%} of the rows, but holds one component of linked "
                f"images with {largest / total:.1%} ({largest} of {total} rows), which is not cut"
            )
        if asked > 0 and rows[side] == 0:
            notes.append(
                f"{side} was to get {asked:.1%} of the rows and got none: there are "
                f"{len(sizes)} components of linked images, the largest with "
                f"{max(sizes.values()) / total:.1%} of the rows"
            )
    return tuple(notes)
