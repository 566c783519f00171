"""Answers of a checkpoint do not depend on the batch; the engine batches what waits."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from config.digest import image_digest
from config.errors import InputError
from miniature import decoder as decoding
from miniature.decoder import Decoder, Row, Sampled
from miniature.engine import Engine, Request
from miniature.pictures import Picture
from miniature.refusal import ProtocolError
from miniature.sampling import Draw
from miniature.scenes import make_scenes

sys.path.insert(0, str(Path(__file__).parent))
from tiny_llava import make_llava

PROMPTS = ("What can you see in the picture?", "Is there a red circle in the picture?", "How?")
LIMITS = (3, 9, 26, 40)


def picture_of(number: int) -> Picture:
    data = make_scenes(6, seed=5)[number].render()
    return Picture(image_digest(data), data)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    torch.set_num_threads(1)
    return Decoder.load(make_llava(tmp_path_factory.mktemp("llava") / "model"))


def drawn_rows(decoder: Decoder) -> list[Row]:
    """Rows that differ in picture (or none), prompt, seed, temperature, top_p and limit."""
    rows = []
    for number in range(24):
        picture = picture_of(number % 6) if number % 4 else None
        ids = decoder.prompt([("user", PROMPTS[number % 3])], picture)
        warmth, top_p = (0.0, 0.7, 1.0)[number % 3], (1.0, 0.8)[number % 2]
        draw = Draw(number // 2, number % 5, warmth, top_p, LIMITS[number % 4])
        rows.append(Row(ids, picture, draw))
    return rows


def answered(decoder: Decoder, rows: list[Row]) -> list[Sampled]:
    decoder.see([row.picture for row in rows if row.picture])
    found: dict[int, Sampled] = {}
    decoder.answer(rows, found.__setitem__)
    assert len(found) == len(rows)
    return [found[index] for index in range(len(rows))]


def test_a_row_has_the_same_tokens_alone_and_in_any_batch(decoder: Decoder) -> None:
    rows = drawn_rows(decoder)
    alone = [answered(decoder, [row])[0] for row in rows]
    assert len({sampled.ids for sampled in alone}) > 15
    for seed in range(4):
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        size = (24, 12, 7, 3)[seed]
        for at in range(0, len(order), size):
            batch = order[at : at + size]
            together = answered(decoder, [rows[index] for index in batch])
            assert together == [alone[index] for index in batch], (seed, at)


def test_letting_rows_go_changes_nothing(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn_rows(decoder)
    found = answered(decoder, rows)
    monkeypatch.setattr(decoding, "SEGMENT", 64)
    assert answered(decoder, rows) == found
    monkeypatch.setattr(decoding, "SEGMENT", 5)
    assert answered(decoder, rows) == found


def test_greedy_answers_are_those_of_generate_on_the_processors_own_inputs(
    decoder: Decoder, tmp_path: Path
) -> None:
    from miniature.making import evaluate

    path = make_llava(tmp_path / "model", seed=3)
    served = Decoder.load(path)
    scene = make_scenes(1, seed=5)[0]
    draw = Draw(0, 0, 0.0, 1.0, 20)
    ids = served.prompt([("user", PROMPTS[0])], picture_of(0))
    [sampled] = answered(served, [Row(ids, picture_of(0), draw)])
    model, processor = evaluate.load(path)
    model.generation_config.max_new_tokens = 20
    assert evaluate.answers(model, processor, [(scene.picture(), PROMPTS[0])]) == [
        served.text(sampled.ids)
    ]


def test_a_picture_is_encoded_once_for_all_its_answers(decoder: Decoder) -> None:
    picture = Picture(image_digest(data := make_scenes(1, seed=9)[0].render()), data)
    ids = decoder.prompt([("user", PROMPTS[0])], picture)
    engine, before = Engine(decoder), decoder.encoded
    try:
        [first, second] = engine.submit(
            Request(ids, picture, 5, 1, 1.0, 1.0, 4), Request(ids, picture, 2, 1, 1.0, 1.0, 4)
        )
        five, two = first.result(), second.result()
    finally:
        engine.close()
    assert decoder.encoded == before + 1
    assert five[:2] == two  # a sample is known by its seed and number, not by n
    assert len({sampled.ids for sampled in five}) > 1


def test_waiting_requests_of_like_limits_share_a_batch(decoder: Decoder) -> None:
    ids = decoder.prompt([("user", PROMPTS[0])], None)
    engine = Engine(decoder, rows=8)

    def request(limit: int, n: int = 1) -> Request:
        return Request(ids, None, n, 0, 0.0, 1.0, limit)

    try:
        futures = engine.submit(
            *(request(4) for _ in range(3)), request(60), request(3), request(60), request(4, n=5)
        )
        for future in futures:
            future.result()
    finally:
        engine.close()
    # The limits 3 and 4 go together as far as 8 rows hold; nobody's 4 tokens wait for 60.
    assert engine.batches == [4, 2, 5]
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(request(4))
    with pytest.raises(ValueError, match="at most 8"):
        engine.submit(request(4, n=9))


def test_a_file_that_is_no_image_fails_its_own_request_alone(decoder: Decoder) -> None:
    broken = Picture(image_digest(b"no image"), b"no image")
    engine = Engine(decoder)
    try:
        bad, good = engine.submit(
            *(
                Request(decoder.prompt([("user", "Describe.")], p), p, 1, 0, 0.0, 1.0, 2)
                for p in (broken, picture_of(1))
            )
        )
        with pytest.raises(ProtocolError, match="cannot identify image file"):
            bad.result()
        assert len(good.result()) == 1
    finally:
        engine.close()


def test_texts_cannot_hold_image_tokens(decoder: Decoder) -> None:
    with pytest.raises(ProtocolError, match="image tokens"):
        decoder.prompt([("user", "What is <image> ?")], None)
    with pytest.raises(ProtocolError, match="without a message of the user"):
        decoder.prompt([("system", "Look.")], picture_of(0))


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        Decoder.load(tmp_path)
