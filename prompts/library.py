"""Reads prompt files and renders them.

A prompt file is UTF-8 text with a line `[user]`, and before it optionally one `[system]`; what
follows a marker is that message. The messages are Jinja2 templates, rendered in a sandbox where a
variable that is not given is an error. Data goes into a message as one block of JSON, see
`data_block`.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from config.digest import text_digest
from config.errors import RecipeError

FOLDER = Path(__file__).parent

_LAYOUTS = (["user"], ["system", "user"])
_MARKER = re.compile(r"^\[(system|user)\][ \t]*$", re.MULTILINE)
# The tags' brackets; controls and separators that a reader may take for the end of a line or
# drop; marks that turn the direction of text; halves of surrogate pairs, which UTF-8 cannot hold.
_ESCAPED = re.compile(
    "[<>&\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # messages are plain text, not HTML
    loader=jinja2.DictLoader({}),  # a prompt includes no other file
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Prompt:
    """A prompt file. `name` is its file name, `sections` its (role, template) in order."""

    name: str
    text: str
    digest: str
    sections: tuple[tuple[str, str], ...]

    def render(self, **variables: str) -> list[tuple[str, str]]:
        """The messages as (role, text).

        Raises RecipeError naming a variable that the prompt needs and is not given, or is given
        and the prompt does not use.
        """
        needed = _variables(self)
        _compare(self.name, needed, frozenset(variables))
        try:
            return [(role, _filled(template, variables)) for role, template in self.sections]
        except jinja2.TemplateError as error:
            raise RecipeError(f"prompt {self.name} cannot be rendered: {error}") from error


def load_prompt(name_or_path: str) -> Prompt:
    """A prompt by the name of a file that comes with the project, or by the path of one's own.

    A name without a slash is looked for among the project's prompts first, then in the current
    directory. Raises RecipeError for a file that is missing, unreadable or wrongly laid out.
    """
    path = _find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"prompt {path} cannot be read as UTF-8 text: {error}") from error
    prompt = Prompt(path.name, text, text_digest(text), _sections(str(path), text))
    _variables(prompt)  # a template that does not parse is found here, before any call
    return prompt


def prompt_names() -> list[str]:
    """The prompts that come with the project."""
    return sorted(path.name for path in FOLDER.glob("*.txt"))


def data_block(data: Any) -> str:
    """JSON between data tags, which no text inside can close.

    `<`, `>` and `&` are written as \\u003c, \\u003e and \\u0026: still the same JSON, but whatever
    the strings hold, the block has one opening tag and one closing tag. Raises TypeError or
    ValueError for what is not JSON.
    """
    text = _JSON.encode(data)
    return f"<data>\n{_ESCAPED.sub(_escape, text)}\n</data>"


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _find(name_or_path: str) -> Path:
    shipped = prompt_names()
    if name_or_path in shipped:
        return FOLDER / name_or_path
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise RecipeError(
        f"no prompt {name_or_path!r}{hint}: give one of {shipped} or the path of a text file"
    )


def _sections(origin: str, text: str) -> tuple[tuple[str, str], ...]:
    before, *parts = _MARKER.split(text)
    roles, templates = parts[::2], [part.strip() for part in parts[1::2]]
    if before.strip() or roles not in _LAYOUTS:
        found = ", ".join(f"[{role}]" for role in roles) or "none"
        lead = "text before the first section; " if before.strip() else ""
        raise RecipeError(
            f"prompt {origin}: {lead}sections found: {found}; expected a line [user], or a line "
            "[system] and then a line [user], each followed by its text"
        )
    for role, template in zip(roles, templates, strict=True):
        if not template:
            raise RecipeError(f"prompt {origin}: section [{role}] is empty; write its text")
    return tuple(zip(roles, templates, strict=True))


def _filled(template: str, variables: dict[str, str]) -> str:
    pieces = _pieces(template)
    if pieces is None:
        return _compiled(template).render(variables)
    return "".join(variables[piece] if is_name else piece for is_name, piece in pieces)


@lru_cache(maxsize=64)
def _pieces(template: str) -> tuple[tuple[bool, str], ...] | None:
    """The template as (is a variable, text or name) where it is text and bare variables alone.

    Running a template costs 40 us, joining its pieces under one. None: it has to be run.
    """
    pieces: list[tuple[bool, str]] = []
    for node in _ENVIRONMENT.parse(template).body:
        if not isinstance(node, jinja2.nodes.Output):
            return None
        for part in node.nodes:
            if isinstance(part, jinja2.nodes.TemplateData):
                pieces.append((False, part.data))
            elif isinstance(part, jinja2.nodes.Name):
                pieces.append((True, part.name))
            else:
                return None
    return tuple(pieces)


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


@lru_cache(maxsize=64)
def _variables(prompt: Prompt) -> frozenset[str]:
    found: set[str] = set()
    for role, template in prompt.sections:
        try:
            names = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
        except jinja2.TemplateSyntaxError as error:
            raise RecipeError(
                f"prompt {prompt.name}, section [{role}], line {error.lineno}: {error.message}"
            ) from error
        found |= names
    return frozenset(found)


def _compare(name: str, needed: frozenset[str], given: frozenset[str]) -> None:
    missing, unused = sorted(needed - given), sorted(given - needed)
    if missing:
        raise RecipeError(
            f"prompt {name} uses {_braced(missing)}, which is not given here; "
            f"it may use {_braced(sorted(given)) or 'no variables'}"
        )
    if unused:
        raise RecipeError(
            f"prompt {name} does not use {_braced(unused)}; put it where the data belongs"
        )


def _braced(names: list[str]) -> str:
    return ", ".join("{{ " + name + " }}" for name in names)
