"""`mixlab recipe list` and `recipe show`, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from mixlab.errors import UnknownRecipe
from mixlab.recipes import RECIPES, Flops, Recipe, recipe

RUN = CliRunner()


def output(*command: str) -> str:
    result = RUN.invoke(app, ["recipe", *command])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_every_recipe_is_listed() -> None:
    listed = output("list")
    assert all(name in listed for name in RECIPES)
    assert [one["name"] for one in json.loads(output("list", "--json"))] == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_shown_with_its_formulas_and_source(name: str) -> None:
    shown = output("show", name)
    assert all(formula.value in shown for formula in Flops)
    assert f"{recipe(name).architecture.parameters:,}" in shown


def test_the_json_holds_the_recipe_itself() -> None:
    shown = json.loads(output("show", "tinyllama_v1_1", "--json"))
    assert Recipe.from_dict(shown["recipe"]) == recipe("tinyllama_v1_1")
    assert shown["parameters"]["all"] == 1_100_048_384
    assert list(shown["tokens_per_step"].values()) == [1_802_240, 7_208_960]


def test_maximal_update_shows_both_rates() -> None:
    rates = json.loads(output("show", "proxy_60m", "--json"))["learning_rates"]
    assert rates["matrices"] == pytest.approx(rates["embedding_and_norms"] * 64 / 768)


def test_a_larger_vocabulary_widens_what_is_shown() -> None:
    shown = json.loads(output("show", "proxy_1m", "--vocabulary", "32000", "--json"))
    assert shown["recipe"]["architecture"]["vocabulary"] == 32_000


def test_an_unknown_recipe_says_which_there_are() -> None:
    result = RUN.invoke(app, ["recipe", "show", "huge"])
    assert isinstance(result.exception, UnknownRecipe)


def test_the_search_prints_the_recommended_shape_first() -> None:
    shown = output("search", "--params", "1.0e9", "--vocab", "48000", "--top", "3")
    rows = [line for line in shown.splitlines() if " x 1" in line]
    assert rows[0].split()[:3] == ["21", "x", "1792"]
    assert len(rows) == 3
    found = json.loads(output("search", "--params", "1.0e9", "--vocab", "48000", "--json"))
    assert len(found["shapes"]) == 8 < found["found"]
    first = found["shapes"][0]
    assert first["parameters"] == 998_206_720
    assert set(first["flops_per_token"]) == {formula.value for formula in Flops}
    assert first["memory_bytes"] > 16 * first["parameters"]


def test_the_search_measures_within_ranges() -> None:
    found = json.loads(
        output(
            "search", "--params", "1e5", "--vocab", "256", "--depth", "2-6", "--width", "64",
            "--expansion", "1-8", "--ffn-multiple", "8", "--context", "64", "--top", "1",
            "--tolerance", "0.05", "--measure", "--json",
        )
    )  # fmt: skip
    (one,) = found["shapes"]
    assert 2 <= one["layers"] <= 6
    assert one["width"] == 64
    assert one["tokens_per_second"] > 0
    assert "timed" in one["measured"]


def test_a_range_that_is_none_is_refused() -> None:
    search = ["recipe", "search", "--params", "1e9", "--vocab", "9"]
    assert RUN.invoke(app, [*search, "--depth", "x"]).exit_code == 2
    result = RUN.invoke(app, [*search, "--queries-per-kv", "1,x"])
    assert result.exit_code == 2
    assert "N,N,..." in result.output
