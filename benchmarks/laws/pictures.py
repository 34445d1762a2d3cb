"""Pictures of a law on RegMix's table, for the docs: `python -m benchmarks.laws.pictures DATA`.

RegMix's table alone, since its licence (MIT) lets its numbers be shown.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.laws import tables
from mixlab import plots
from mixlab.fitting import fit
from mixlab.laws import LAWS
from mixlab.mixture import Mixture

OUTPUT = Path(__file__).parents[2] / "docs" / "images"
RUNS = 128


def main() -> None:
    """Fit one law to 128 runs and draw it."""
    parser = argparse.ArgumentParser(prog="benchmarks.laws.pictures", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the public tables")
    parser.add_argument("--law", choices=list(LAWS), default="bimix_pools")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    data = tables.regmix(asked.data)
    train = data.train.take(np.sort(np.random.default_rng(0).permutation(512)[:RUNS]))
    found = fit(LAWS[asked.law], train, profiles=False)
    step = found.steps_seen[1]
    reference = Mixture.of(train.domains, train.proportions.mean(axis=0))
    shares, measured = data.test.proportions, data.test.losses_nats
    predicted, widths = found.losses(shares, step), found.interval_widths(shares, step)
    misses = np.abs(np.log(predicted / measured))
    drawn = {
        "share": plots.loss_against_share(found, train, step=step, reference=reference),
        "predicted": plots.predicted_against_measured(
            np.vstack([found.losses(train.proportions, step), predicted]),
            np.vstack([train.losses_nats, measured]),
            targets=list(found.targets),
            held_out=np.arange(len(train) + len(measured)) >= len(train),
            widths=np.vstack([found.interval_widths(train.proportions, step), widths]),
        ),
        "transfer": plots.transfer(found, reference, step=step),
        "coverage": plots.coverage({"RegMix": misses.ravel()}, {"RegMix": widths.ravel()}),
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        plots.save(figure, asked.output / f"laws-{name}.png")


if __name__ == "__main__":
    main()
