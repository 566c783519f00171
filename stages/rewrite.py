"""Rewrite consistent claims into y_w and inconsistent ones into y_l (SymMPO step 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from config.settings import Role
from curation.claims import REWRITE_SCHEMA, RewriteAnswer, check_rewrite
from models.chat import ChatClient
from models.structured import ask_structured
from stages.base import Outcome, Row, Work, call_columns, claims_request, row_identity
from stages.chain import EXTRACT, REWRITE
from stages.extract import extract_keys_sql
from stages.units import units_sql
from storage.images import ImageStore
from storage.tables import Tables


def rewrite_keys_sql(work: Work, tables: Tables) -> str:
    """The current extractions that hold something to write. The key covers claims and style."""
    extractions = tables.source("extractions", work.chain.of(EXTRACT))
    return (
        "SELECT left(sha256(e.unit || ':' || e.content), 32) AS key, e.unit, e.id AS extraction_id "
        f"FROM {extractions} AS e SEMI JOIN ({extract_keys_sql(work, tables)}) AS c ON c.key = e.key "
        "WHERE e.consistent + e.inconsistent > 0"
    )


class RewriteStage:
    name = REWRITE
    table = "rewrites"
    role: Role = "claims"

    def keys(self, work: Work, tables: Tables) -> str:
        return rewrite_keys_sql(work, tables)

    def texts(self, work: Work, tables: Tables, chunk: str) -> str:
        claims = tables.source("claims", work.chain.of(EXTRACT))
        extractions = tables.source("extractions", work.chain.of(EXTRACT))
        return (
            "SELECT p.key, p.unit, p.extraction_id, u.prompt, c.claims, e.style_example "
            f"FROM {chunk} AS p JOIN {units_sql(work, tables)} AS u ON u.unit = p.unit "
            f"JOIN {extractions} AS e ON e.id = p.extraction_id "
            "JOIN (SELECT extraction_id, "
            "list({'id': id, 'text': text, 'verdict': verdict} ORDER BY number) AS claims "
            f"FROM {claims} WHERE extraction_id IN (SELECT extraction_id FROM {chunk}) "
            "GROUP BY extraction_id) AS c ON c.extraction_id = p.extraction_id"
        )

    def processor(
        self, work: Work, client: ChatClient, images: ImageStore
    ) -> Callable[[Row, int], Awaitable[Outcome]]:
        call = work.recipe.rewrite
        prompt = work.chain.prompts[REWRITE]
        recipe = work.chain.of(REWRITE)

        async def rewrite(unit: Row, nonce: int) -> Outcome:
            good = [claim for claim in unit["claims"] if claim["verdict"] == "consistent"]
            bad = [claim for claim in unit["claims"] if claim["verdict"] == "inconsistent"]
            data = {
                "question": unit["prompt"],
                "consistent": [claim["text"] for claim in good],
                "inconsistent": [claim["text"] for claim in bad],
                "style_example": unit["style_example"],
            }
            found = await ask_structured(
                client,
                claims_request(call, prompt, data, nonce, ("rewrite", REWRITE_SCHEMA)),
                RewriteAnswer,
                max_asks=call.max_asks,
                check=lambda value: check_rewrite(value, bool(good), bool(bad)),
            )
            row = {
                "id": row_identity(recipe, unit["key"]),
                "key": unit["key"],
                "unit": unit["unit"],
                "extraction_id": unit["extraction_id"],
                "chosen": found.value.chosen,
                "rejected": found.value.rejected,
                "chosen_claim_ids": [claim["id"] for claim in good],
                "rejected_claim_ids": [claim["id"] for claim in bad],
                **call_columns(found.answers, call.model, prompt.digest, work.run_id),
            }
            return Outcome({"rewrites": [row]}, found.answers)

        return rewrite
