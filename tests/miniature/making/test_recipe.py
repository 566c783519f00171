from __future__ import annotations

import ast
from dataclasses import replace

from miniature.making.recipe import Recipe, _meaning


def test_a_number_changes_the_digest() -> None:
    assert Recipe().digest == Recipe().digest
    assert replace(Recipe(), seed=1).digest != Recipe().digest
    assert Recipe().lasting(0.5).digest != Recipe().digest


def test_code_changes_what_is_digested_and_comments_do_not() -> None:
    def meaning(code: str) -> object:
        return _meaning(ast.parse(code))

    plain = "def f(x):\n    return x + 1\n"
    told = 'def f(x):\n    """Adds one."""\n    # to x\n    return (x\n            + 1)\n'
    assert meaning(told) == meaning(plain)
    assert meaning(plain.replace("1", "2")) != meaning(plain)


def test_a_shorter_recipe_has_fewer_steps_and_the_same_sizes() -> None:
    short = Recipe().lasting(0.1)
    assert short.reference.steps == Recipe().reference.steps // 10
    assert short.reference.matrices == Recipe().reference.matrices
    assert short.tower == Recipe().tower
    assert Recipe().lasting(0.0).clip.steps == 2
