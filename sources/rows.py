"""From one row of a table, whatever its format, to records.

Known shapes of rows, by the columns that carry the prompt:

    prompt         a text, or a list of texts
    prompts        a list of texts
    question       a text (TPO, RLHF-V as JSON)
    conversations  turns {"from": "human", "value": "<image>\\nQ"} (LLaVA)
    text           a JSON text that holds "question" (RLHF-V as Parquet)

and by those that carry the image: image, else image_path. Any other name is mapped by the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from config.errors import InputError
from sources.records import BytesRef, ImageRef, PathRef, Record, UrlRef, shown

IMAGE_COLUMNS = ("image", "image_path")
PROMPT_COLUMNS = ("prompt", "prompts", "question", "conversations")
JSON_TEXT_COLUMN = "text"
ID_COLUMN = "id"
IMAGE_TOKEN = "<image>"  # noqa: S105 (the place of the image in a LLaVA turn)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Problem = tuple[str, str]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read. `message` says where and why."""

    message: str


Row = dict[str, Any] | BadRow


@dataclass(frozen=True, slots=True)
class Plan:
    """Which column carries what. `prompt` is None where `prompts` are asked of every image."""

    source: str
    base: Path
    image: str
    prompt: str | None
    id: str | None
    json_text: bool = False
    prompts: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.image, self.prompt, self.id) if name is not None]


def plan_rows(
    source: str,
    base: Path,
    found: Collection[str],
    columns: Mapping[str, str],
    prompts: tuple[str, ...],
) -> Plan:
    """Decides once which of the `found` columns carry image, prompt and id.

    Raises InputError where a needed column is absent, mapped wrongly, or one of several.
    """
    for ours, theirs in columns.items():
        if theirs not in found:
            raise InputError(
                f"{source}: no column {theirs!r} (mapped from {ours}); {_columns_found(found)}"
            )
    image = columns.get("image") or next((n for n in IMAGE_COLUMNS if n in found), None)
    if image is None:
        raise InputError(
            f"{source}: no image column ({' or '.join(IMAGE_COLUMNS)}); {_columns_found(found)}; "
            "map yours, for instance image=file_name"
        )
    prompt = _prompt_column(source, found, columns, bool(prompts))
    return Plan(
        source=source,
        base=base,
        image=image,
        prompt=prompt,
        id=columns.get("id") or (ID_COLUMN if ID_COLUMN in found else None),
        json_text=prompt == JSON_TEXT_COLUMN and "prompt" not in columns,
        prompts=prompts,
    )


def has_needed(found: Collection[str], columns: Mapping[str, str], given_prompts: bool) -> bool:
    """Whether `found` holds an image and a prompt column, so that no more need be looked for."""
    usual = (*PROMPT_COLUMNS, JSON_TEXT_COLUMN)
    image = columns["image"] in found if "image" in columns else _any(IMAGE_COLUMNS, found)
    prompt = columns["prompt"] in found if "prompt" in columns else _any(usual, found)
    identity = columns["id"] in found if "id" in columns else True
    return image and (prompt or given_prompts) and identity


def records_of(row: Row, position: int, plan: Plan) -> Iterator[Record]:
    """The row's records: one a prompt, or one that says what is wrong."""
    if isinstance(row, BadRow):
        yield Record(
            plan.source, position, 0, None, None, None, problem=("bad_record", row.message)
        )
        return
    external_id, id_problem = _identity(row.get(plan.id) if plan.id is not None else None)
    image, image_problem = image_of(row.get(plan.image), plan.base)
    for item, (prompt, prompt_problem) in enumerate(_prompts(row, plan)):
        problem = id_problem or prompt_problem or image_problem
        yield Record(plan.source, position, item, external_id, image, prompt, problem)


def image_of(value: Any, base: Path) -> tuple[ImageRef | None, Problem | None]:
    """An image column's value: a path, a URL, bytes, or {"bytes", "path"} as `datasets` has it."""
    if value is None or value == "":
        return None, ("no_image", "the image is missing: give a path, a URL or bytes")
    if isinstance(value, bytes):
        return BytesRef(value, None), None
    if isinstance(value, dict) and value and value.keys() <= {"bytes", "path"}:
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) and (path is None or isinstance(path, str)):
            return BytesRef(data, path or None), None
        return image_of(path, base) if data is None else (None, _bad_image(value))
    if not isinstance(value, str) or value[:5].lower() == "data:" or not _storable(value):
        return None, _bad_image(value)
    if _URL.match(value):
        return UrlRef(value), None
    return PathRef(Path(os.path.join(base, value))), None


def _bad_image(value: Any) -> Problem:
    return (
        "bad_record",
        f"the image is {shown(value)}; expected a path, a URL, bytes, or bytes and path",
    )


def _identity(value: Any) -> tuple[str | None, Problem | None]:
    if value is None or value == "":
        return None, None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)
        if _storable(text):
            return text, None
    return None, ("bad_record", f"the id is {shown(value)}; expected a text or a number")


def _prompts(row: dict[str, Any], plan: Plan) -> list[tuple[str | None, Problem | None]]:
    if plan.prompt is None:
        return [(prompt, None) for prompt in plan.prompts]
    value = row.get(plan.prompt)
    if plan.json_text and isinstance(value, str):
        value, problem = _question_of(value)
        if problem is not None:
            return [(None, problem)]
    if plan.prompt == "prompts" and isinstance(value, str) and value:
        return [(None, ("bad_record", f"prompts is {shown(value)}; expected a list of texts"))]
    if not isinstance(value, list):
        return [_prompt(value)]
    if not value:
        return [_prompt(None)]
    if any(isinstance(entry, dict) for entry in value):
        return _human_turns(value)
    return [_prompt(entry) for entry in value]


def _prompt(value: Any) -> tuple[str | None, Problem | None]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, ("no_prompt", "the prompt is missing or empty")
    if not isinstance(value, str) or not _storable(value):
        return None, ("bad_record", f"the prompt is {shown(value)}; expected a text")
    return value, None


def _question_of(text: str) -> tuple[Any, Problem | None]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict) and "question" in value:
        return value["question"], None
    message = f'text is {shown(text)}; expected a JSON text holding "question"'
    return None, ("bad_record", f"{message}; if it is the prompt itself, map prompt=text")


def _human_turns(turns: list[Any]) -> list[tuple[str | None, Problem | None]]:
    """The first human turn is the prompt; the later ones lean on answers that are not kept."""
    asked: list[tuple[str | None, Problem | None]] = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            message = f"a turn is {shown(turn)}; expected an object of from and value"
            return [(None, ("bad_record", message))]
        if turn["from"] != "human":
            continue
        value = turn.get("value")
        if isinstance(value, str):
            value = value.replace(IMAGE_TOKEN, "").strip()
        prompt, problem = _prompt(value)
        if asked:
            problem = ("follow_up_turn", "a later turn of a conversation; only the first is used")
        asked.append((prompt, problem))
    return asked or [(None, ("no_prompt", "the conversation has no human turn"))]


def _prompt_column(
    source: str, found: Collection[str], columns: Mapping[str, str], given_prompts: bool
) -> str | None:
    """The prompt's column, or None where the given prompts stand for it."""
    mapped = "prompt" in columns
    column = columns["prompt"] if mapped else _usual_prompt(source, found)
    if given_prompts and column == JSON_TEXT_COLUMN and not mapped:
        return None  # many tables have a `text` that is no prompt
    if given_prompts and column is not None:
        raise InputError(
            f"{source}: prompts are given, but its column {column!r} has prompts too; "
            "leave the prompts out, or remove the column"
        )
    if column is None and not given_prompts:
        raise InputError(
            f"{source}: no prompt column ({', '.join(PROMPT_COLUMNS)}, or text holding JSON); "
            f"{_columns_found(found)}; map yours, for instance prompt=caption, or give prompts "
            "to ask of every image"
        )
    return column


def _usual_prompt(source: str, found: Collection[str]) -> str | None:
    usual = [name for name in PROMPT_COLUMNS if name in found]
    if len(usual) > 1:
        raise InputError(
            f"{source}: several columns may hold the prompt ({', '.join(usual)}); say which, "
            f"for instance prompt={usual[0]}"
        )
    if usual:
        return usual[0]
    return JSON_TEXT_COLUMN if JSON_TEXT_COLUMN in found else None


def _columns_found(found: Collection[str]) -> str:
    return f"columns found: {', '.join(sorted(found)) or 'none'}"


def _any(names: Collection[str], found: Collection[str]) -> bool:
    return any(name in found for name in names)


def _storable(text: str) -> bool:
    """Whether a text can be written as UTF-8 (no lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
