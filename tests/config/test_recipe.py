import pytest

from config.errors import RecipeError
from config.recipe import load_recipe, parse_recipe, recipe_names


def as_dict():
    return load_recipe("symmpo").model_dump(mode="json")


def test_every_shipped_recipe_loads_with_the_papers_values():
    assert recipe_names() == ["blind", "symmpo"]
    symmpo = load_recipe("symmpo")
    assert (symmpo.resample.k, symmpo.resample.temperature, symmpo.resample.max_tokens) == (
        10,
        0.7,
        512,
    )
    assert symmpo.caption.model == "Qwen/Qwen2.5-VL-32B-Instruct"
    blind = load_recipe("blind")
    assert (blind.mine.strategy, blind.mine.clip_min, blind.mine.dino_max) == ("blind", 0.95, 0.6)


@pytest.mark.parametrize(
    ("section", "wrong", "near"),
    [("mine", "stratgy", "strategy"), ("resample", "temprature", "temperature")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_name(section, wrong, near):
    data = as_dict()
    data[section][wrong] = 1
    with pytest.raises(
        RecipeError, match=rf"{section}\.{wrong}: unknown key; did you mean '{near}'"
    ):
        parse_recipe(data)


def test_an_unknown_section_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"zzz: unknown key; known keys: .*caption"):
        parse_recipe({**as_dict(), "zzz": 1})


def test_a_recipe_that_is_not_there_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'symmpo'"):
        load_recipe("sympo")


def test_every_change_of_a_value_changes_the_digest():
    before = load_recipe("symmpo").digest
    assert load_recipe("symmpo", {"resample.k": 4}).digest != before
    assert load_recipe("symmpo", {"mine.near_duplicate": 0.98}).digest != before
    assert load_recipe("symmpo").digest == before


def test_shares_that_do_not_make_one_are_refused():
    with pytest.raises(RecipeError, match=r"is 1\.5, expected 1"):
        load_recipe("symmpo", {"assemble.split.train": 0.5, "assemble.split.validation": 1.0})


def test_min_answers_above_k_is_refused():
    with pytest.raises(RecipeError, match="min_answers is 5 of k = 4"):
        load_recipe("symmpo", {"resample.k": 4, "resample.min_answers": 5})


def test_a_file_that_is_not_yaml_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1")
    with pytest.raises(RecipeError, match=r"broken\.yaml is not YAML"):
        load_recipe(path)


def test_blind_mining_needs_room_between_its_thresholds():
    with pytest.raises(RecipeError, match="near_duplicate above clip_min"):
        load_recipe("blind", {"mine.clip_min": 0.99, "mine.near_duplicate": 0.99})
