"""Pictures of laws: drawn from any fit, and the numbers in them are those of the fit."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mixlab import plots
from mixlab.errors import NotWritten
from mixlab.fitting import Fit, fit
from mixlab.laws import LAWS
from mixlab.mixture import Mixture
from mixlab.runs import Observations
from tests.synthetic import mixtures, observe

STEP = 1000


@pytest.fixture(scope="module")
def seen() -> Observations:
    return observe(mixtures(3, 9), steps=(100, STEP), noise=0.004)


@pytest.fixture(scope="module")
def found(seen: Observations) -> Fit:
    return fit(LAWS["bimix"], seen, profiles=False)


@pytest.fixture(scope="module")
def reference(seen: Observations) -> Mixture:
    return Mixture.of(seen.domains, seen.proportions.mean(axis=0))


def drawn(figure: Figure) -> None:
    assert plots.as_svg(figure).startswith("<svg")


def test_losses_against_shares_and_steps(
    found: Fit, seen: Observations, reference: Mixture
) -> None:
    picture = plots.loss_against_share(found, seen, step=STEP, reference=reference)
    curves = [axis.lines for axis in picture.axes if axis.get_visible()]
    assert len(curves) == 3
    curve = curves[1][0].get_xydata()
    there = found.losses(reference.shares(seen.domains)[None, :], STEP)[0, 1]
    assert np.interp(reference.proportions["d1"], *np.array(curve).T) == pytest.approx(there, 1e-3)
    drawn(picture)
    drawn(plots.loss_against_tokens(found, seen, mixture=reference, until=1e4))


def test_transfer_is_what_one_more_point_of_share_changes(found: Fit, reference: Mixture) -> None:
    percent = plots.transfer_percent(found, reference, step=STEP)
    shares = reference.shares(found.domains)
    small = 1e-5
    for column in range(3):
        corner = np.eye(3)[column]
        moved = shares + small * (corner - shares) / (1 - shares[column])
        before, after = (found.losses(one[None, :], STEP)[0] for one in (shares, moved))
        np.testing.assert_allclose(percent[:, column], (after / before - 1) / small, rtol=1e-3)
    assert np.all(np.diag(percent) < 0)
    drawn(plots.transfer(found, reference, step=STEP))


def test_held_out_points_are_marked_and_those_outside_their_interval_ringed(
    found: Fit, seen: Observations
) -> None:
    predicted = found.losses(seen.proportions, seen.steps)
    held_out = seen.mixture_index() < 3
    measured = seen.losses_nats.copy()
    measured[np.flatnonzero(held_out)[0], 0] *= 1.5
    measured[0, 2] = np.nan
    picture = plots.predicted_against_measured(
        predicted, measured, targets=seen.targets, held_out=held_out,
        widths=np.full(predicted.shape, 0.1),
    )  # fmt: skip
    first = picture.axes[0].lines
    assert [len(line.get_xdata()) for line in first[1:]] == [12, 6, 1]
    drawn(picture)


def test_coverage_counts_losses_inside_their_interval() -> None:
    misses = np.abs(np.random.default_rng(0).normal(size=4000))
    picture = plots.coverage({"seen": misses}, {"seen": np.full(4000, 1.959964)})
    *_, line = picture.axes[0].lines
    nominal, actual = np.array(line.get_xydata()).T
    np.testing.assert_allclose(actual, nominal, atol=2.5)
    inside = 100 * np.mean(misses <= 1.959964)
    assert line.get_label() == f"seen: {inside:.1f}% in the 95% interval"
    drawn(picture)


def test_mixtures_triangles_and_regret(found: Fit, seen: Observations) -> None:
    grid = np.array([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12
    losses = found.losses(grid, STEP).mean(axis=1)
    assert np.isinf(losses).any()  # at a share of 0, where BiMix is undefined: left white
    marked = {"equal": np.full(3, 1 / 3)}
    drawn(plots.ternary(grid, losses, domains=found.domains, runs=seen.proportions, marked=marked))
    given = {"natural": {"a": 0.9, "b": 0.1}, "solved": {"a": 0.4, "b": 0.5, "c": 0.1}}
    drawn(plots.mixtures(given, ranges={"a": (0.3, 0.6)}))
    regrets = np.array([[0.1, 0.01, 0.0], [0.2, 0.03, 0.001]])
    drawn(plots.regret_against_runs([8, 16, 32], {"random": regrets}))


@pytest.mark.parametrize("marks", [{}, {"least": 300, "most": 700, "chosen": 700}, {"most": 0}])
def test_what_a_vocabulary_covers(marks: dict[str, int]) -> None:
    covered = np.linspace(0, 1, 1000) ** 0.3
    picture = plots.vocabulary_coverage(covered, fixed=257, **marks)
    curve = picture.axes[0].lines[0]
    assert curve.get_xdata()[0] == 257
    assert curve.get_xdata()[-1] == 1000
    np.testing.assert_allclose(curve.get_ydata()[-1], 100)
    drawn(picture)
    assert picture.axes[0].get_xticklabels()[0].get_text() == "257"
    assert picture.axes[0].get_legend() is None  # lines would cross it


@pytest.mark.parametrize("name", ["curve", "curve.txt"])
def test_a_file_that_is_no_picture_is_refused(name: str, tmp_path: Path) -> None:
    picture = plots.vocabulary_coverage(np.linspace(0, 1, 500), fixed=257)
    with pytest.raises(NotWritten, match=r"take \.png, \.svg or \.pdf"):
        plots.save(picture, tmp_path / name)
    assert not list(tmp_path.iterdir())
    plots.save(picture, tmp_path / "new" / "curve.PNG")
    assert (tmp_path / "new" / "curve.PNG").stat().st_size
