"""Sample K answers of the reference model to (m, x) and to (m', x) (SymMPO step 2).

One call a sample, seed = hash(row, k): every sample can be made again, and raising K pays for
the added samples alone. An answer cut at max_tokens is kept, as any user of the model would
see it; its `finish_reason` is "length".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from config.digest import seed_of, text_digest
from config.errors import EmptyAnswer, RefusedAnswer
from config.settings import Role
from models.chat import DECLINED, ChatClient, ChatRequest, ImagePart, Message, spent_on
from stages.base import Outcome, Row, Work, call_columns, row_identity
from stages.chain import RESAMPLE
from stages.units import units_sql, with_image_paths
from storage.images import ImageStore
from storage.tables import Tables


class ResampleStage:
    name = RESAMPLE
    table = "answers"
    role: Role = "reference"

    def keys(self, work: Work, tables: Tables) -> str:
        return (
            "SELECT unit || ':' || k AS key, unit, image, prompt, k "
            f"FROM {units_sql(work, tables)}, range({work.recipe.resample.k}) AS samples(k)"
        )

    def texts(self, work: Work, tables: Tables, chunk: str) -> str:
        return with_image_paths(work, tables, chunk)

    def processor(
        self, work: Work, client: ChatClient, images: ImageStore
    ) -> Callable[[Row, int], Awaitable[Outcome]]:
        call = work.recipe.resample
        recipe = work.chain.of(RESAMPLE)

        async def sample(unit: Row, nonce: int) -> Outcome:
            # Nonce 0 is left out of the seed: seed = hash(row, k) is what the docs promise.
            retry = [nonce] if nonce else []
            images.locate(unit["image"], unit["image_path"])
            seed = seed_of(work.recipe.seed, unit["unit"], unit["k"], *retry)
            answer = await client.ask(
                ChatRequest(
                    model=call.model,
                    messages=(Message("user", (ImagePart(unit["image"]), unit["prompt"])),),
                    temperature=call.temperature,
                    top_p=call.top_p,
                    max_tokens=call.max_tokens,
                    seed=seed,
                    sample=unit["k"],
                    nonce=nonce,
                )
            )
            if answer.finish_reason in DECLINED:
                raise RefusedAnswer(
                    f"a filter took the answer's place (finish_reason {answer.finish_reason!r})",
                    raw_text=answer.text,
                    spent=spent_on([answer]),
                )
            if not answer.text.strip():
                raise EmptyAnswer(
                    "the reference model answered nothing",
                    raw_text=answer.text,
                    spent=spent_on([answer]),
                )
            row = {
                "id": row_identity(recipe, unit["key"]),
                "key": unit["key"],
                "unit": unit["unit"],
                "image": unit["image"],
                "prompt": unit["prompt"],
                "k": unit["k"],
                "seed": seed,
                "text": answer.text,
                "content": text_digest(answer.text),
                **call_columns([answer], call.model, None, work.run_id),
            }
            return Outcome({"answers": [row]}, [answer])

        return sample
