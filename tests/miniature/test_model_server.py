"""The server over real connections, answering from checkpoints."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from miniature.decoder import Decoder
from miniature.model_service import CAPTIONER, CLAIM_MODEL, REFERENCE, ModelService
from miniature.scenes import make_scenes
from miniature.server import StandInServer, main

sys.path.insert(0, str(Path(__file__).parent))
from tiny_llava import make_llava
from wire_helpers import REWRITE, claims_call, contents, data_url, picture_call, refusal, send

REPOSITORY = Path(__file__).parents[2]
PICTURE = make_scenes(1, seed=4)[0].render()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def server(checkpoint: Path, media: Path) -> Iterator[StandInServer]:
    service = ModelService(Decoder.load(checkpoint), Decoder.load(checkpoint))
    with StandInServer(service=service, media_folder=media) as found:
        yield found


def ask(model: str = REFERENCE, **more: Any) -> dict[str, Any]:
    return picture_call(model, data_url(PICTURE), **{"max_tokens": 12, "seed": 5, **more})


def claims(**more: Any) -> dict[str, Any]:
    return claims_call(**more) | {"model": CLAIM_MODEL}


async def test_a_seed_gives_the_same_answers_among_others(server: StandInServer) -> None:
    alone = await contents(server, ask(n=3))
    assert len(set(alone)) == 3
    calls = [asyncio.create_task(contents(server, ask(seed=s, n=1 + s % 3))) for s in range(20)]
    assert (await asyncio.gather(*calls))[5] == alone
    assert await contents(server, ask(seed=6, n=3)) != alone
    greedy = [await contents(server, ask(temperature=0, seed=s)) for s in (1, 2)]
    assert greedy[0] == greedy[1]
    assert len({(await contents(server, ask(seed=None)))[0] for _ in range(4)}) > 1


async def test_usage_counts_the_models_own_tokens(server: StandInServer) -> None:
    body = json.loads((await send(server, ask(n=2, max_tokens=1)))[2])
    # <s> USER: 9 patches, "Describe the picture ." and ASSISTANT:; one token an answer.
    assert body["usage"] == {"prompt_tokens": 16, "completion_tokens": 2, "total_tokens": 18}
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "length"]


async def test_a_stop_text_cuts_text_and_usage(server: StandInServer) -> None:
    [text] = await contents(server, ask())
    word = text.split()[4]
    body = json.loads((await send(server, ask(stop=[word])))[2])
    assert body["choices"][0]["message"]["content"] == text[: text.index(word)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 12


async def test_the_openai_client_streams_the_same_text(server: StandInServer) -> None:
    whole = json.loads((await send(server, ask()))[2])
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="any") as client:
        stream = await client.chat.completions.create(
            **ask(), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        listed = [model.id async for model in client.models.list()]
    assert (
        "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
        == (whole["choices"][0]["message"]["content"])
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]
    assert listed == [CAPTIONER, REFERENCE, CLAIM_MODEL]


async def test_it_says_what_it_stands_in_for(server: StandInServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.base_url}/models") as response,
    ):
        told = " ".join(model["description"] for model in (await response.json())["data"])
    assert "stands in for vLLM" in told
    assert "stands in for DeepSeek" in told


async def test_pictures_come_as_paths_or_not_at_all(server: StandInServer, media: Path) -> None:
    (media / "scene.png").write_bytes(PICTURE)
    url = (media / "scene.png").as_uri()
    by_path = picture_call(REFERENCE, url, max_tokens=12, seed=5)
    assert await contents(server, by_path) == await contents(server, ask())
    blank = ask() | {"messages": [{"role": "user", "content": "Describe the picture."}]}
    assert await contents(server, blank) != await contents(server, ask())
    status, message = await refusal(server, picture_call(REFERENCE, "file:///etc/hostname"))
    assert (status, "outside --media-folder" in message) == (400, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (ask(max_tokens=250), "maximum context length is 256 tokens"),
        (ask(top_p=0), "'top_p' is 0"),
        (picture_call(REFERENCE, data_url(b"none")), "cannot identify image file"),
        (claims() | {"messages": [{"role": "user", "content": "Compare."}]}, "data block"),
    ],
)
async def test_a_wrong_request_is_refused(server: StandInServer, body: Any, said: str) -> None:
    status, message = await refusal(server, body)
    assert (status, said in message) == (400, True), message


async def test_two_images_are_refused(server: StandInServer) -> None:
    body = ask()
    content = body["messages"][0]["content"]
    content.insert(0, content[0])
    assert "takes one image, got 2" in (await refusal(server, body))[1]


async def test_claims_are_answered_while_models_are_busy(server: StandInServer) -> None:
    busy = [asyncio.create_task(contents(server, ask(n=64, max_tokens=120))) for _ in range(2)]
    while server.stats()["in_flight"] < 2:
        await asyncio.sleep(0.01)
    [answer] = await contents(server, claims())
    assert json.loads(answer) == {"chosen": REWRITE["consistent"][0], "rejected": None}
    assert not all(task.done() for task in busy)
    await asyncio.gather(*busy)


def test_the_process_serves_checkpoints_and_says_so(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "miniature.server", "--captioner", str(checkpoint)]
    process = subprocess.Popen(
        [*command, "--reference", str(checkpoint)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stands in for vLLM" in told
    assert "stands in for DeepSeek" in told


@pytest.mark.parametrize(
    "arguments",
    [[], ["--captioner", "x"], ["--annotations", "x", "--captioner", "x", "--reference", "x"]],
)
def test_who_answers_must_be_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "--captioner DIR and --reference DIR, or --annotations" in capsys.readouterr().err
