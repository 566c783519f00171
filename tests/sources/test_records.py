from __future__ import annotations

import pytest

from sources.records import Record, UrlRef, shown


def test_a_record_without_a_problem_needs_an_image_and_a_prompt() -> None:
    with pytest.raises(ValueError, match="needs an image and a prompt"):
        Record("s", 0, 0, None, None, "What?")
    with pytest.raises(ValueError, match="needs an image and a prompt"):
        Record("s", 0, 0, None, UrlRef("http://h/a"), "")


def test_a_problem_has_a_known_reason() -> None:
    with pytest.raises(ValueError, match="unknown reason"):
        Record("s", 0, 0, None, None, None, ("broken", "it is"))


def test_shown_is_short_and_printable() -> None:
    assert shown("a\nb\udcff") == r"'a\nb\udcff'"
    assert len(shown("x" * 10_000_000)) < 130
