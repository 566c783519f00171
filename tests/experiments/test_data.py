import json

from experiments.data import random_neighbours, read_rows, write_dataset, write_world
from miniature.questions import question_of
from miniature.scenes import make_scenes
from storage.root import Root
from storage.schemas import PREFERENCES
from train.objectives import get
from train.rows import read_dataset


def row(number, prompt="describe", split="train", **changes):
    values = dict.fromkeys(PREFERENCES.names)
    values |= {
        "row_id": f"row-{number}",
        "split": split,
        "prompt": prompt,
        "image": f"m{number}",
        "image_path": f"images/m{number}.png",
        "chosen": f"chosen {number}",
        "rejected": f"rejected {number}",
        "neighbour": f"n{number}",
        "neighbour_path": f"images/n{number}.png",
        "neighbour_chosen": f"neighbour chosen {number}",
        "external_ids": [],
    }
    return values | changes


def test_a_random_neighbour_is_another_rows_image_with_its_own_answer_to_the_same_prompt():
    rows = [row(n, prompt="ab"[n % 2]) for n in range(20)]
    answers = {r["image"]: (r["prompt"], r["chosen"]) for r in rows}
    answers |= {r["neighbour"]: (r["prompt"], r["neighbour_chosen"]) for r in rows}
    changed, kept = random_neighbours(rows, 0)
    assert kept == 0
    for old, new in zip(rows, changed, strict=True):
        assert new["neighbour"] not in (old["image"], old["neighbour"])
        assert (new["prompt"], new["neighbour_chosen"]) == answers[new["neighbour"]]
        assert new["neighbour_path"] == f"images/{new['neighbour']}.png"
        same = ("row_id", "prompt", "image", "image_path", "chosen", "rejected", "split")
        assert [new[key] for key in same] == [old[key] for key in same]


def test_random_neighbours_are_the_same_for_a_seed_and_others_for_another():
    rows = [row(n) for n in range(20)]
    first, again, other = (random_neighbours(rows, seed)[0] for seed in (0, 0, 1))
    assert first == again != other


def test_no_neighbour_comes_from_another_split_and_a_lone_row_keeps_its_own():
    rows = [row(0), row(1, split="validation"), row(2, split="validation")]
    changed, kept = random_neighbours(rows, 0)
    assert kept == 1
    assert changed[0] == rows[0]
    assert changed[1]["neighbour"] in ("m2", "n2")


def test_a_variant_is_a_dataset_that_training_reads(tmp_path):
    root = Root(tmp_path)
    for name in ("m0", "n0", "m1", "n1"):
        root.write_bytes(f"images/{name}.png", b"never opened here")
    rows = [row(0), row(1, split="validation")]
    name = write_dataset(root, rows)
    assert read_rows(root, name) == rows
    found = read_dataset(root, get("symmpo").combinations, "train", name)
    assert [one.row_id for one in found.rows] == ["row-0"]
    assert found.rows[0].responses["neighbour_chosen"] == "neighbour chosen 0"


def test_the_world_describes_each_scene_and_asks_of_every_kind(tmp_path):
    write_world(tmp_path, make_scenes(8, 7))
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    kinds = [question_of(line["prompt"]).kind for line in lines]
    assert set(kinds[::2]) <= {"describe", "thorough"}
    assert kinds[1::2] == ["relate", "count", "yes_no", "at"] * 2
    assert all((tmp_path / line["image"]).is_file() for line in lines)
