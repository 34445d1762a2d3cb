"""Choosing a law: the truth where the table tells it, the simplest where it doesn't, and why."""

from dataclasses import replace

import numpy as np
import pytest

from mixlab.choosing import Choice, choose, competing, fit_auto
from mixlab.choosing.choice import Contest, _chosen, _elsewhere
from mixlab.errors import InvalidLoss, InvalidTable, TooFewMixtures, UnknownLaw
from mixlab.fitting import fit
from mixlab.laws import BIMIX_TRANSFER
from mixlab.runs import Observations
from tests.synthetic import mixtures, observe

LAWS = ("bimix", "bimix_transfer")
STEPS = (100, 200, 400, 800, 1600)


def own_share_only(runs: int = 12, noise: float = 0.01, seed: int = 0) -> Observations:
    return observe(mixtures(3, runs, seed), steps=STEPS[:3], run_noise=noise, seed=seed)


def only(seen: Observations, *targets: str) -> Observations:
    columns = [seen.targets.index(name) for name in targets]
    return replace(seen, targets=targets, losses_nats=seen.losses_nats[:, columns])


def helped(runs: int = 24, noise: float = 0.003) -> Observations:
    """Domain d1 is worth half as much to d0 as d0 itself."""
    seen = observe(mixtures(3, runs), steps=STEPS[:3], run_noise=noise)
    share = seen.proportions[:, 0]
    factor = ((share + 0.5 * seen.proportions[:, 1]) / share) ** -0.12
    losses = seen.losses_nats.copy()
    losses[:, 0] *= factor
    return only(replace(seen, losses_nats=losses), "d0", "d2")


@pytest.fixture(scope="module")
def helped_choice() -> Choice:
    return choose(helped(), LAWS)


def test_where_domains_help_each_other_the_transfer_law_wins(
    helped_choice: Choice,
) -> None:
    found = helped_choice.targets["d0"]
    assert found.law == "bimix_transfer"
    assert found.scores["bimix_transfer"].mre_percent < 0.7 * found.scores["bimix"].mre_percent


def test_where_they_do_not_the_simpler_law_is_kept() -> None:
    found = choose(only(own_share_only(24), "d0", "d2"), LAWS)
    assert {one.law for one in found.targets.values()} == {"bimix"}


def test_what_most_targets_say_decides_where_one_hardly_tells_laws_apart() -> None:
    few, many = np.full(12, 0.0100), np.full(12, 0.0101)
    close = Contest({"a": (few, 4), "b": (many, 9)}, {}, None)
    clear = Contest({"a": (2 * many, 4), "b": (many, 9)}, {}, None)
    elsewhere = _elsewhere([close, clear, clear])
    assert _chosen("t", close, elsewhere, 1.0).law == "b"
    assert _chosen("t", close, _elsewhere([close]), 1.0).law == "a"


def test_a_law_that_foretells_anything_where_no_run_was_does_not_compete() -> None:
    """Worths of nothing beside the own domain: its loss without it is beyond all reason."""
    seen = only(helped(12), "d0")
    sound = fit(BIMIX_TRANSFER, seen, profiles=False).targets["d0"]
    wild = replace(sound, parameters={**sound.parameters, "leak": 1e-300, "alpha": 5.0})
    most = 3 * float(seen.losses_nats.max())
    assert competing.most_foretold(sound, seen) < most < competing.most_foretold(wild, seen)


def test_the_reason_gives_both_errors_their_difference_and_the_mixtures(
    helped_choice: Choice,
) -> None:
    reason = helped_choice.targets["d0"].reason
    assert reason.startswith("bimix_transfer: held-out 0.")
    assert "of bimix, difference" in reason
    assert "+-" in reason
    assert reason.endswith("over 24 mixtures")


def test_with_few_runs_no_law_is_chosen_that_does_worse_than_bimix() -> None:
    # 2(m+1) runs of a table in which only the own share matters.
    fresh = only(own_share_only(30, noise=0.0, seed=9), "d0", "d2")
    few = only(own_share_only(8, noise=0.005), "d0", "d2")
    miss = [
        np.mean(np.abs(np.log(fit.losses(fresh.proportions, fresh.steps) / fresh.losses_nats)))
        for fit in (fit_auto(few, LAWS), fit_auto(few, ["bimix"]))
    ]
    assert miss[0] < 1.05 * miss[1]


def test_a_fit_by_auto_has_each_target_s_law_and_says_why(helped_choice: Choice) -> None:
    found = fit_auto(helped(), LAWS)
    assert found.law_name == "auto"
    assert {name: one.law.name for name, one in found.targets.items()} == {
        name: one.law for name, one in helped_choice.targets.items()
    }
    assert list(found.targets) == ["d0", "d2"]
    assert any(note.startswith("d0: bimix_transfer: held-out") for note in found.notes)


def test_seed_noise_is_in_the_reason_and_below_it_the_simpler_law_is_enough() -> None:
    rng = np.random.default_rng(0)
    once = only(helped(12, noise=0.0), "d0")
    twice = [
        replace(
            once,
            runs=tuple(f"{run}-{seed}" for run in once.runs),
            losses_nats=once.losses_nats * np.exp(0.2 * rng.normal(size=once.losses_nats.shape)),
        )
        for seed in range(2)
    ]
    joined = Observations(
        runs=twice[0].runs + twice[1].runs,
        domains=once.domains,
        targets=once.targets,
        **{
            name: np.concatenate([getattr(one, name) for one in twice])
            for name in (
                "proportions", "steps", "tokens", "losses_nats", "params", "unique_tokens",
            )
        },
    )  # fmt: skip
    found = choose(joined, LAWS).targets["d0"]
    assert found.law == "bimix"
    assert found.seed_noise_percent == pytest.approx(20, rel=0.5)
    assert "seeds differ by" in found.reason


def test_laws_that_can_t_compete_are_listed_with_why() -> None:
    left_out = choose(only(own_share_only(6), "d0"), ["bimix", "additive", "data_constrained"])
    why = left_out.targets["d0"].left_out
    assert "params" in why["additive"]
    assert "params" in why["data_constrained"]


def test_several_sizes_call_for_laws_that_see_them() -> None:
    seen = own_share_only(6)
    sizes = np.where(np.arange(len(seen)) % 2, 1e8, 3e8)
    suited, why = competing.suited(replace(seen, params=sizes), None)
    assert suited
    assert all(one.needs_params for one in suited)
    assert why["bimix"] == "sees no model size, and the table has 2"
    assert "column 'unique_tokens'" in why["data_constrained"]
    suited, why = competing.suited(seen, None)
    assert "bimix" in {one.name for one in suited}
    assert "named" in why["lightgbm"]


def test_a_law_undefined_at_a_share_of_0_yields_to_one_that_is_not() -> None:
    seen = only(helped(12), "d0")
    shares = seen.proportions.copy()
    none = np.repeat(np.arange(12), 3) == 0
    shares[none] = [0.0, 0.5, 0.5]
    found = choose(replace(seen, proportions=shares), LAWS).targets["d0"]
    assert found.law == "bimix_transfer"
    assert found.left_out["bimix"] == "undefined on 3 rows with a share of 0"


def test_laws_compete_on_a_few_steps_of_each_mixture() -> None:
    seen = observe(mixtures(3, 5), steps=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    thin = competing.thinned(seen)
    assert len(thin) == 5 * competing.MOST_STEPS
    assert {1.0, 10.0} < set(thin.steps)


def test_what_no_law_can_be_fitted_to_is_an_error_that_says_why() -> None:
    with pytest.raises(TooFewMixtures, match="bimix needs at least 3"):
        choose(own_share_only(6).take(np.arange(6)), ["bimix"])
    with pytest.raises(UnknownLaw):
        choose(own_share_only(), ["bimixx"])
    seen = own_share_only(4)
    seen.losses_nats[0, 0] = np.inf
    with pytest.raises(InvalidLoss):
        choose(seen, ["bimix"])


def test_laws_that_see_no_mixture_are_held_against_others_on_whole_mixtures() -> None:
    seen = observe(mixtures(3, 12), steps=STEPS[:3], run_noise=0.01)
    sizes = np.where(np.arange(len(seen)) % 2, 1e8, 3e8)
    twice = replace(
        seen.take(np.repeat(np.arange(len(seen)), 2)),
        runs=tuple(f"run-{row % 7}-{row}" for row in range(2 * len(seen))),
        params=np.repeat(sizes, 2),
        losses_nats=np.repeat(seen.losses_nats, 2, axis=0)
        * np.tile([[0.999], [1.001]], (len(seen), 1)),
        tokens=np.repeat(seen.steps * 1e6, 2),
    )
    found = choose(only(twice, "d0"), ["chinchilla", "bimix_transfer_sized"]).targets["d0"]
    assert found.mixtures == 12
    assert set(found.scores) == {"chinchilla", "bimix_transfer_sized"}


@pytest.mark.parametrize(("noise", "chosen"), [(None, "b"), (1.0, "b"), (2.0, "a")])
def test_differences_below_what_seeds_make_choose_no_law(noise: float | None, chosen: str) -> None:
    # Misses of 1.2% are those of the truth where seeds differ by 2%, and not where by 1%.
    contest = Contest({"a": (np.full(12, 0.012), 4), "b": (np.full(12, 0.010), 9)}, {}, noise)
    assert _chosen("t", contest, _elsewhere([contest]), 1.0).law == chosen


def test_too_few_mixtures_are_counted_first_and_floors_checked() -> None:
    seen = own_share_only(6).take(np.arange(4))
    with pytest.raises(TooFewMixtures, match=r"need 4 different mixtures or more.*'d0' [12]"):
        choose(seen)
    with pytest.raises(InvalidTable, match="floor must lie between 0 and 1, not nan"):
        choose(seen, share_floor=float("nan"))


def test_a_target_without_a_loss_is_left_out_in_so_many_words() -> None:
    seen = observe(mixtures(3, 6))
    seen.losses_nats[:, 1] = np.nan
    assert choose(seen, ["bimix"]).left_out_targets == {"d1": "no row has a loss of it"}
