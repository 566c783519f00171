from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from miniature.making.mix import SHARES, probes, sample, samples
from miniature.questions import KINDS, Question, answer, question_of
from miniature.scenes import make_scenes
from miniature.scoring import hallucinated, is_right

SCENES = make_scenes(400, seed=12)


def first(n: int, *, truthful: bool, seed: int = 5) -> list:
    return list(islice(samples(SCENES, seed, truthful=truthful, without_image=0.1), n))


def test_truthful_samples_are_true() -> None:
    told = [one for one in first(3_000, truthful=True) if one.scene is not None]
    for one in told:
        question = question_of(one.prompt)
        assert question is not None
        assert is_right(one.response, question, SCENES[one.scene])


def test_the_mix_has_its_shares_and_a_tenth_without_a_picture() -> None:
    mixed = first(6_000, truthful=False)
    kinds = Counter(question_of(one.prompt).kind for one in mixed)
    for kind, share in SHARES.items():
        assert kinds[kind] / 6_000 == pytest.approx(share, abs=0.02)
    assert sum(one.scene is None for one in mixed) / 6_000 == pytest.approx(0.1, abs=0.02)


def test_what_the_teacher_believes_is_planted_in_descriptions_and_questions() -> None:
    mixed = [one for one in first(6_000, truthful=False) if one.scene is not None]
    planted = {kind: [] for kind in KINDS}
    for one in mixed:
        question, scene = question_of(one.prompt), SCENES[one.scene]
        if question.kind == "describe":
            planted["describe"].append(bool(hallucinated(one.response, scene)))
        else:
            planted[question.kind].append(not is_right(one.response, question, scene))
    shares = {kind: sum(found) / len(found) for kind, found in planted.items()}
    assert 0.3 < shares["describe"] < 0.6
    assert all(share > 0.08 for share in shares.values()), shares


def test_a_seed_gives_the_same_samples_and_every_round_has_every_scene() -> None:
    assert first(500, truthful=False) == first(500, truthful=False)
    assert first(500, truthful=False) != first(500, truthful=False, seed=6)
    mixed = islice(samples(SCENES, 1, truthful=True, without_image=0.0), len(SCENES))
    assert {one.scene for one in mixed} == set(range(len(SCENES)))


def test_a_sample_of_a_kind_is_of_that_kind() -> None:
    draw = random.Random(2)
    for kind in KINDS:
        asked, told = sample(SCENES[0], kind, draw, truthful=True)
        assert question_of(asked).kind == kind
        assert told


def test_probes_ask_one_of_each_kind_and_half_of_the_yes_no_have_the_answer_no() -> None:
    asked = probes(SCENES, seed=1)
    assert Counter(question_of(prompt).kind for _, prompt in asked) == dict.fromkeys(KINDS, 400)
    told = [
        answer(Question("yes_no", question.about), SCENES[index].things)
        for index, prompt in asked
        if (question := question_of(prompt)).kind == "yes_no"
    ]
    assert 150 < sum(text.startswith("No") for text in told) < 250
