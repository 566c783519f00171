"""A plan gives the calls a build would make, and every cause by its name."""

import json

import pytest

from config.errors import RecipeError
from config.settings import Endpoint
from sources.spec import InputSpec
from stages.pending import Retry
from stages.plan import FOLLOWS, check_endpoints, make_plan
from stages.run import open_work
from storage.root import Root


@pytest.fixture
def built(world, server, build, make_recipe, make_settings, tmp_path):
    """plan(recipe=None, spec=None, **more) of a finished build, and what made it."""
    root, settings = Root(tmp_path / "set"), make_settings(server.base_url)
    spec = InputSpec(location=str(world / "prompts.jsonl"))
    _, work = build(root, make_recipe(), settings, spec)

    def plan(recipe=None, spec=None, **more):
        opened = open_work(root, recipe or make_recipe(), settings)
        return {found.stage: found for found in make_plan(opened, spec, **more)}

    plan.root, plan.settings, plan.spec, plan.work = root, settings, spec, work
    return plan


def test_a_first_run_is_named_as_such(world, server, make_recipe, make_settings, tmp_path):
    work = open_work(Root(tmp_path / "set"), make_recipe(), make_settings(server.base_url))
    spec = InputSpec(location=str(world / "prompts.jsonl"))
    rows = len((world / "prompts.jsonl").read_text().splitlines())
    for plan in make_plan(work, spec):
        assert list(plan.reasons) == [f"first run: {rows} new rows in the input"]
        assert plan.dollars is None  # no price is set, so nothing is known of the cost


def test_every_kind_of_edit_is_named(built, make_recipe, world, tmp_path):
    done = {stage: progress.done for stage, progress in built.work.progress.stages.items()}
    assert [plan.calls for plan in built().values()] == [0] * 4

    more = built(make_recipe(resample={"k": 3}))["resample"]
    assert (more.calls, more.reasons) == (
        done["resample"] // 2,
        {"resample.k is now 3": done["resample"] // 2},
    )
    other = built(make_recipe(extract={"model": "another"}))["extract"]
    told = "extract.model changed from 'stand-in-claims' to 'another'"
    assert other.reasons == {told: done["extract"]}

    lines = (world / "prompts.jsonl").read_text().splitlines()
    new = json.dumps({"image": "images/scene-00000.png", "prompt": "Anything odd?"})
    path = tmp_path / "more.jsonl"
    path.write_text("\n".join([*lines, new]))
    rows = built(spec=InputSpec(location=str(path), images_root=str(world)))
    assert rows["rewrite"].reasons == {"1 new rows in the input": 2}


def test_lost_rows_are_told_from_new_ones(built):
    done = built.work.progress.stages["rewrite"].done
    built.root.remove("tables/rewrites")
    (why,) = built()["rewrite"].reasons.items()
    assert why == ("lost from tables/rewrites; what the response cache holds is free", done)


def test_what_waits_and_what_has_another_input_is_named(built, make_recipe, build):
    other = make_recipe().model_copy(update={"seed": 7})
    plan = built(other)
    assert list(plan["resample"].reasons) == ["resample.seed changed from 0 to 7"]
    for stage in ("extract", "rewrite"):
        assert list(plan[stage].reasons) == [FOLLOWS]
        assert plan[stage].waiting == plan[stage].calls > 0
    built.settings.claims = Endpoint()
    with pytest.raises(RecipeError, match="VISPREF_CLAIMS__BASE_URL"):
        build(built.root, other, built.settings)  # samples, and stops where claims are needed
    plan = built(other)
    assert plan["resample"].calls == 0
    assert list(plan["extract"].reasons) == ["its input changed"]


def test_failed_rows_cost_a_build_nothing_and_a_retry_their_calls(
    world, server, build, make_recipe, make_settings, tmp_path
):
    root, settings = Root(tmp_path / "set"), make_settings(server.base_url)
    recipe = make_recipe(extract={"max_asks": 1})
    server.set_faults([{"kind": "truncated_json", "next": 3, "role": "claims"}])
    build(root, recipe, settings, InputSpec(location=str(world / "prompts.jsonl")))

    def extract(**more):
        return make_plan(open_work(root, recipe, settings), None, **more)[2]

    kept = extract()
    assert kept.pending == 0
    assert sum(kept.reasons.values()) == 3
    assert all(
        why.startswith("failed before (") and "vispref retry asks afresh" in why
        for why in kept.reasons
    )
    again = extract(retry=True)
    assert again.pending == 3
    assert all(why.startswith("failed before (") for why in again.reasons)
    _, work = build(root, recipe, settings, retry=Retry())
    assert work.progress.stages["extract"].calls == again.pending


def test_only_roles_with_pending_calls_need_an_endpoint(built, make_recipe, build):
    for role in ("captioner", "reference", "claims"):
        setattr(built.settings, role, Endpoint())
    build(built.root, make_recipe(), built.settings)  # nothing is pending: nobody is asked
    edited = make_recipe(caption={"temperature": 0.5})
    work = open_work(built.root, edited, built.settings)
    with pytest.raises(RecipeError, match=r"captioner \(24 calls\): set VISPREF_CAPTIONER__BASE"):
        check_endpoints(work, None)
    with pytest.raises(RecipeError, match=r"captioner \(24 calls\)"):
        build(built.root, edited, built.settings)


def test_a_first_run_without_endpoints_is_refused_before_it_embeds(
    world, make_recipe, make_settings, tmp_path
):
    work = open_work(Root(tmp_path / "set"), make_recipe(), make_settings(None))
    with pytest.raises(RecipeError, match=r"captioner .*reference .*claims .*BASE_URL"):
        check_endpoints(work, InputSpec(location=str(world / "prompts.jsonl")))
