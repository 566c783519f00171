import json
import shlex
from urllib.parse import unquote

from tasks.failures import retry_page

ROWS = [
    {"stage": "rewrite", "error class": "InvalidAnswer", "rows": 44, "what to do": "Retry.",
     "example": "```[click](http://evil)"},
]  # fmt: skip


def test_a_line_opens_the_form_filled_in():
    page = retry_page("/data/my set", ROWS, "http://ui/deployments/deployment/1/run")
    values = page.split("?parameters=")[1].split(")")[0]
    # The address bar decodes once, the form once more.
    assert json.loads(unquote(unquote(values))) == {
        "root": "/data/my set", "stage": "rewrite", "error_class": "InvalidAnswer",
    }  # fmt: skip


def test_without_a_deployment_the_command_is_shown():
    page = retry_page("/data/my 'set", ROWS, None)
    command = page.split("```sh\n")[1].split("\n```")[0]
    assert shlex.split(command) == [
        "vispref", "retry", "--root", "/data/my 'set", "--stage", "rewrite",
        "--error-class", "InvalidAnswer",
    ]  # fmt: skip
    assert "](http" not in page.replace(ROWS[0]["example"].replace("`", "'"), "")


def test_a_model_s_words_stay_in_their_block():
    page = retry_page("/data/set", ROWS, None)
    assert page.split("```text\n")[1].startswith("'''[click](http://evil)\n```\n")
    assert page.count("```") == 4
