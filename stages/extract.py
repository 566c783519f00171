"""Compare a unit's sampled answers with the caption and list atomic claims (SymMPO step 3).

One call a unit over all its answers: a claim made in several answers is one row that names them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from config.digest import digest
from config.settings import Role
from curation.claims import EXTRACT_SCHEMA, Claim, ExtractAnswer, check_extract, merge_claims
from models.chat import ChatClient
from models.structured import ask_structured
from stages.base import Outcome, Row, Work, call_columns, claims_request, row_identity
from stages.chain import CAPTION, EXTRACT, RESAMPLE
from stages.units import units_sql
from storage.images import ImageStore
from storage.tables import Tables


def extract_keys_sql(work: Work, tables: Tables) -> str:
    """The units whose caption and answers are there. The key covers the texts compared."""
    captions = tables.source("captions", work.chain.of(CAPTION))
    answers = tables.source("answers", work.chain.of(RESAMPLE))
    k = work.recipe.resample.k
    at_least = work.recipe.resample.min_answers or k
    return (
        "SELECT left(sha256(u.unit || ':' || c.content || ':' || a.contents), 32) AS key, "
        "u.unit, u.image "
        f"FROM {units_sql(work, tables)} AS u JOIN {captions} AS c ON c.key = u.image "
        # Of fixed size for each unit, whatever K: a million units' answers spill to disk in order.
        "JOIN (SELECT unit, bit_xor(md5_number(k || ':' || content)) AS contents, count(*) AS n "
        f"FROM {answers} WHERE k < {k} GROUP BY unit) AS a ON a.unit = u.unit "
        f"WHERE a.n >= {at_least}"
    )


class ExtractStage:
    name = EXTRACT
    table = "extractions"
    role: Role = "claims"

    def keys(self, work: Work, tables: Tables) -> str:
        return extract_keys_sql(work, tables)

    def texts(self, work: Work, tables: Tables, chunk: str) -> str:
        captions = tables.source("captions", work.chain.of(CAPTION))
        answers = tables.source("answers", work.chain.of(RESAMPLE))
        return (
            "SELECT p.key, p.unit, c.id AS caption_id, c.text AS caption, a.prompt, a.answers "
            f"FROM {chunk} AS p JOIN {captions} AS c ON c.key = p.image JOIN ("
            "SELECT unit, any_value(prompt) AS prompt, "
            "list({'id': id, 'text': text, 'content': content} ORDER BY k) AS answers "
            f"FROM {answers} WHERE k < {work.recipe.resample.k} "
            f"AND unit IN (SELECT unit FROM {chunk}) GROUP BY unit) AS a ON a.unit = p.unit"
        )

    def processor(
        self, work: Work, client: ChatClient, images: ImageStore
    ) -> Callable[[Row, int], Awaitable[Outcome]]:
        call = work.recipe.extract
        prompt = work.chain.prompts[EXTRACT]
        recipe = work.chain.of(EXTRACT)

        async def extract(unit: Row, nonce: int) -> Outcome:
            answers = unit["answers"]
            data = {
                "question": unit["prompt"],
                "caption": unit["caption"],
                "answers": [{"number": n, "text": a["text"]} for n, a in enumerate(answers, 1)],
            }
            found = await ask_structured(
                client,
                claims_request(call, prompt, data, nonce, ("claims", EXTRACT_SCHEMA)),
                ExtractAnswer,
                max_asks=call.max_asks,
                check=lambda value: check_extract(value, len(answers)),
            )
            claims = merge_claims(found.value.claims)
            accounting = call_columns(found.answers, call.model, prompt.digest, work.run_id)
            return Outcome(_rows(recipe, unit, claims, accounting), found.answers)

        return extract


def _rows(
    recipe: str, unit: Row, claims: Sequence[Claim], accounting: Row
) -> dict[str, list[dict[str, Any]]]:
    extraction = row_identity(recipe, unit["key"])
    ids = [answer["id"] for answer in unit["answers"]]
    claim_rows = [
        {
            "id": row_identity(recipe, f"{unit['key']}:{number}"),
            "key": f"{unit['key']}:{number}",
            "extraction_id": extraction,
            "unit": unit["unit"],
            "number": number,
            "text": claim.claim,
            "verdict": claim.verdict,
            "evidence": claim.evidence,
            "answer_ids": [ids[n - 1] for n in claim.answers],
        }
        for number, claim in enumerate(claims)
    ]
    verdicts = [claim.verdict for claim in claims]
    content = digest(
        {
            "claims": [[claim.claim, claim.verdict] for claim in claims],
            "style": unit["answers"][0]["content"],  # the rewrite is shown this answer's style
        }
    )
    row = {
        "id": extraction,
        "key": unit["key"],
        "unit": unit["unit"],
        "caption_id": unit["caption_id"],
        "answer_ids": ids,
        "consistent": verdicts.count("consistent"),
        "inconsistent": verdicts.count("inconsistent"),
        "unverifiable": verdicts.count("unverifiable"),
        "content": content,
        "style_example": unit["answers"][0]["text"],
        **accounting,
    }
    return {"claims": claim_rows, "extractions": [row]}
