"""Caption every image once, in detail, with a strong vision-language model (SymMPO step 1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from config.digest import seed_of, text_digest
from config.errors import EmptyAnswer, RefusedAnswer, TruncatedAnswer
from config.settings import Role
from curation.answers import looks_like_refusal
from models.chat import DECLINED, ChatAnswer, ChatClient, ChatRequest, ImagePart, Message, spent_on
from stages.base import Outcome, Row, Work, call_columns, row_identity
from stages.chain import CAPTION
from stages.units import units_sql, with_image_paths
from storage.images import ImageStore
from storage.tables import Tables


class CaptionStage:
    name = CAPTION
    table = "captions"
    role: Role = "captioner"

    def keys(self, work: Work, tables: Tables) -> str:
        return f"SELECT DISTINCT image AS key, image, image AS unit FROM {units_sql(work, tables)}"

    def texts(self, work: Work, tables: Tables, chunk: str) -> str:
        return with_image_paths(work, tables, chunk)

    def processor(
        self, work: Work, client: ChatClient, images: ImageStore
    ) -> Callable[[Row, int], Awaitable[Outcome]]:
        call = work.recipe.caption
        prompt = work.chain.prompts[CAPTION]
        recipe = work.chain.of(CAPTION)
        rendered = prompt.render()

        async def caption(unit: Row, nonce: int) -> Outcome:
            image = unit["image"]
            images.locate(image, unit["image_path"])
            answer = await client.ask(
                ChatRequest(
                    model=call.model,
                    messages=tuple(_message(role, text, image) for role, text in rendered),
                    temperature=call.temperature,
                    top_p=call.top_p,
                    max_tokens=call.max_tokens,
                    seed=seed_of(work.recipe.seed, CAPTION, image, nonce),
                    nonce=nonce,
                )
            )
            text = answer.text.strip()
            _check(answer, text, call.max_tokens)
            row = {
                "id": row_identity(recipe, unit["key"]),
                "key": unit["key"],
                "image": image,
                "text": text,
                "content": text_digest(text),
                **call_columns([answer], call.model, prompt.digest, work.run_id),
            }
            return Outcome({"captions": [row]}, [answer])

        return caption


def _message(role: str, text: str, image: str) -> Message:
    return Message(role, (ImagePart(image), text) if role == "user" else (text,))


def _check(answer: ChatAnswer, text: str, max_tokens: int) -> None:
    """Raises RowError for a caption that claims cannot be held against."""
    spent = spent_on([answer])
    if answer.finish_reason in DECLINED or looks_like_refusal(text):
        raise RefusedAnswer("the captioner declined", raw_text=text, spent=spent)
    if not text:
        raise EmptyAnswer("the captioner answered nothing", raw_text=answer.text, spent=spent)
    if answer.finish_reason == "length":
        raise TruncatedAnswer(
            f"the caption stopped at max_tokens = {max_tokens}; "
            "raise caption.max_tokens in the recipe",
            raw_text=text,
            spent=spent,
        )
