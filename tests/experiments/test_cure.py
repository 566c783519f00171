"""The experiment's claim in small: SymMPO cures most of the planted fault and costs little.

The dataset is made by the rules of the stand-in claim model from answers that the reference samples
and captions that the captioner gives, without server and stages, which have tests of their own.
Training and measuring are the experiment's own, on scenes that neither model nor dataset has seen.
"""

from __future__ import annotations

import hashlib
import os

import pytest
import torch

from cli.demonstration import WEIGHTS
from config.digest import seed_of
from experiments.data import root_of, write_dataset
from experiments.measures import answer_scores
from experiments.plan import NEAREST, SYMMPO, Job
from experiments.running import SELECTION_KINDS, Setting, train_run
from miniature.claims import extract, rewrite
from miniature.decoder import Decoder, Row
from miniature.language import holds, parse
from miniature.making.evaluate import load
from miniature.pictures import Picture
from miniature.sampling import Draw
from miniature.scenes import DESCRIBE, make_scenes
from storage.root import Root
from storage.schemas import PREFERENCES

SCENES, K, HELD_OUT = 200, 4, 20
PROMPT = DESCRIBE[0]
CAPTION = "Describe everything in the picture and count the objects."
JOB = Job(SYMMPO.name, 1e-4, 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the fastest for models this small
    yield
    torch.set_num_threads(before)


def ask(folder, pictures, prompt, k, temperature):
    """k answers to one prompt for each picture."""
    decoder = Decoder.load(folder)
    decoder.see(pictures)
    rows = [
        Row(
            decoder.prompt([("user", prompt)], picture),
            picture,
            Draw(seed_of(picture.sha256, number), number, temperature, 1.0, 128),
        )
        for picture in pictures
        for number in range(k)
    ]
    texts = [""] * len(rows)
    decoder.answer(rows, lambda at, made: texts.__setitem__(at, decoder.text(made.ids)))
    return [texts[start : start + k] for start in range(0, len(texts), k)]


def both_sides(caption, answers):
    """y_w and y_l of one image, each None where there is no claim for it."""
    asked = [{"number": n, "text": text} for n, text in enumerate(answers, 1)]
    claims = extract({"question": PROMPT, "caption": caption, "answers": asked})["claims"]
    sides = {
        verdict: [claim["claim"] for claim in claims if claim["verdict"] == verdict]
        for verdict in ("consistent", "inconsistent")
    }
    return rewrite({"question": PROMPT, **sides})


def nearest(scene, scenes):
    """The index of the other scene that shares the most objects with it."""
    mine = set(scene.objects)
    shared = [
        len(mine & set(other.objects)) / len(mine | set(other.objects)) if other != scene else -1
        for other in scenes
    ]
    return shared.index(max(shared))


def records(scenes, pictures, texts):
    for number, scene in enumerate(scenes):
        other = nearest(scene, scenes)
        sides = texts[number], texts[other]
        if not (sides[0]["chosen"] and sides[0]["rejected"] and sides[1]["chosen"]):
            continue
        yield dict.fromkeys(PREFERENCES.names) | {
            "row_id": f"row-{number}",
            "split": "validation" if number < HELD_OUT else "train",
            "prompt": PROMPT,
            "image": pictures[number].sha256,
            "image_path": f"images/{number}.png",
            "neighbour": pictures[other].sha256,
            "neighbour_path": f"images/{other}.png",
            "chosen": sides[0]["chosen"],
            "rejected": sides[0]["rejected"],
            "neighbour_chosen": sides[1]["chosen"],
        }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The setting of a run over the pairs, and the pairs with their scenes."""
    out = tmp_path_factory.mktemp("cure")
    root = Root(root_of(out / "dataset"))
    scenes = make_scenes(SCENES, seed=9)
    data = [scene.render() for scene in scenes]
    pictures = [Picture(hashlib.sha256(png).hexdigest(), png) for png in data]
    for number, png in enumerate(data):
        root.write_bytes(f"images/{number}.png", png)
    captions = ask(WEIGHTS / "captioner", pictures, CAPTION, 1, 0.0)
    sampled = ask(WEIGHTS / "reference", pictures, PROMPT, K, 1.0)
    texts = [both_sides(one[0], answers) for one, answers in zip(captions, sampled, strict=True)]
    rows = list(records(scenes, pictures, texts))
    setting = Setting(out, WEIGHTS, {NEAREST: write_dataset(root, rows)}, (200, 0), step=8)
    return setting, [(row, scenes[int(row["row_id"].removeprefix("row-"))]) for row in rows]


def false_share(texts):
    stated = [(claim.fact, scene) for text, scene in texts for claim in parse(text)]
    wrong = sum(fact is None or not holds(fact, scene.things) for fact, scene in stated)
    return wrong / len(stated)


def test_the_pairs_put_the_fault_on_one_side(pairs):
    _, rows = pairs
    assert len(rows) > SCENES / 2
    assert false_share([(row["chosen"], scene) for row, scene in rows]) < 0.02
    assert false_share([(row["rejected"], scene) for row, scene in rows]) > 0.15


def test_symmpo_cures_most_of_the_fault_and_keeps_the_coverage(pairs):
    setting, _ = pairs
    model, processor = load(setting.reference)
    scenes = make_scenes(setting.scenes[0], split="validation")
    before = answer_scores(model, processor, scenes, SELECTION_KINDS)
    after = train_run(JOB, setting)
    assert after["chair_s"] <= before["chair_s"] - 15
    assert after["chair_i"] <= before["chair_i"] / 2
    assert after["coverage"] >= before["coverage"] - 2


def test_a_finished_run_is_read_and_not_repeated(pairs):
    setting, _ = pairs
    first = train_run(JOB, setting)
    path = setting.result_path("runs", JOB)
    written = os.stat(path).st_mtime_ns
    assert train_run(JOB, setting) == first
    assert os.stat(path).st_mtime_ns == written
