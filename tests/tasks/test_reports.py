import re
import shlex

from storage.catalog import query
from storage.root import Root
from tasks.reports import query_page


def commands(page):
    return [shlex.split(block) for block in re.findall(r"```sh\n(.*?)\n```", page, re.DOTALL)]


def test_three_queries_can_be_copied_and_run(
    tmp_path, build, make_recipe, make_settings, server, world
):
    from sources.spec import InputSpec

    root = Root(tmp_path / "my set")
    settings = make_settings(server.base_url)
    build(root, make_recipe(), settings, InputSpec(location=str(world / "prompts.jsonl")))
    found = commands(query_page(root))
    assert len(found) == 3
    for command in found:
        assert command[:4] == ["duckdb", "-readonly", f"{root.path}/catalog.duckdb", "-c"]
        assert query(root, command[4]).num_rows > 0


def test_a_root_elsewhere_is_asked_through_the_command():
    page = query_page(Root("memory://bucket/set"))
    assert {tuple(command[:3]) for command in commands(page)} == {("vispref", "query", "--root")}
