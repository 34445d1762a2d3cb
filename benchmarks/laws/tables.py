"""The public tables that the protocols read, and where each comes from.

The folder is the reader's own: none of these tables is part of this project. Where a file is
missing, its protocols are skipped and named.
"""

from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from mixlab.importing import import_files
from mixlab.runs import Observations
from mixlab.tables import from_columns, read_columns

REGMIX = "github.com/sail-sg/regmix @ b004d3a, regression_fitting/data (MIT)"
APPLE = "github.com/apple/ml-scalefit, data/dmsl_llm_slimpajama.csv, rows up to 937M"
SLDBENCH = "SLDBench (CC-BY-4.0), github.com/PlanarG/active-sl @ e0a58ff, official train split"
CHINCHILLA = "github.com/epoch-research/analyzing-chinchilla @ 9225883"
DATABLATIONS = "github.com/huggingface/datablations @ 1370131, utils/parametric_fit.ipynb"
MARIN = "github.com/marin-community/marin @ 53d6544 (Apache-2.0)"

SOURCES = {
    "regmix/train_mixture_1m.csv": REGMIX,
    "regmix/train_pile_loss_1m.csv": REGMIX,
    "regmix/test_mixture_1m.csv": REGMIX,
    "regmix/test_pile_loss_1m.csv": REGMIX,
    "regmix/test_mixture_60m.csv": REGMIX,
    "regmix/test_pile_loss_60m.csv": REGMIX,
    "dmsl-slimpajama/dmsl_llm_slimpajama_upto937m.csv": APPLE,
    "sldbench/domain_mixture_scaling_law__train.parquet": SLDBENCH,
    "chinchilla/svg_extracted_data.csv": CHINCHILLA,
    "datablations/fit182_c4_runs.csv": DATABLATIONS,
    "marin/starcoder_predicted_vs_actual.csv": MARIN,
}


@dataclass(frozen=True)
class RegMix:
    """512 runs to fit on, 256 to predict, the same 256 mixtures at a larger size."""

    train: Observations
    test: Observations
    larger: Observations


@cache
def regmix(folder: Path) -> RegMix:
    """RegMix's proxies: 17 domains, 13 targets, one billion tokens each."""

    def read(part: str, size: str, params: float) -> Observations:
        names = (f"{part}_mixture_{size}.csv", f"{part}_pile_loss_{size}.csv")
        paths = [folder / "regmix" / name for name in names]
        return import_files("regmix", paths, params=params, tokens=1e9)

    return RegMix(read("train", "1m", 1e6), read("test", "1m", 1e6), read("test", "60m", 60e6))


@cache
def apple(folder: Path) -> Observations:
    """Apple's SlimPajama runs: 7 domains and openhermes, four sizes, 11 checkpoints a run."""
    path = folder / "dmsl-slimpajama" / "dmsl_llm_slimpajama_upto937m.csv"
    return import_files("scalefit", [path])


@cache
def sldbench(folder: Path) -> Observations:
    """SLDBench's domain mixtures: 5 domains, four sizes of 20 runs.

    The table has no tokens; every run saw equally many, 30 billion (arXiv 2403.16952).
    """
    path = folder / "sldbench" / "domain_mixture_scaling_law__train.parquet"
    return import_files("sldbench", [path], tokens=30e9)


@cache
def chinchilla(folder: Path) -> Observations:
    """The 240 Chinchilla runs that arXiv 2404.10102 fits: all but the five of largest loss."""
    found = read_columns(folder / "chinchilla" / "svg_extracted_data.csv")
    params = np.array(found["Model Size"], dtype=float)
    losses = np.array(found["loss"], dtype=float)
    flops = np.array(found["Training FLOP"], dtype=float)
    seen = _untold_mixture(params, flops / (6 * params), losses)
    return seen.take(losses < np.sort(losses)[-5])


@cache
def datablations(folder: Path) -> Observations:
    """The 182 runs of arXiv 2305.16264 with repeated data."""
    found = read_columns(folder / "datablations" / "fit182_c4_runs.csv")
    params, tokens, unique, losses = (
        np.array(found[name], dtype=float)
        for name in ("params", "tokens", "unique_tokens", "val_loss")
    )
    return replace(_untold_mixture(params, tokens, losses), unique_tokens=unique)


@cache
def marin(folder: Path) -> np.ndarray:
    """Runs fitted on, predicted and actual bits per byte of the proposed mixture, (row, 3)."""
    found = read_columns(folder / "marin" / "starcoder_predicted_vs_actual.csv")
    names = ("subset_size", "predicted_bpb", "actual_bpb")
    return np.array([found[name] for name in names], dtype=float).T


def checksums(folder: Path) -> dict[str, str | None]:
    """The SHA-256 of each file, None where it is missing."""
    return {
        name: sha256((folder / name).read_bytes()).hexdigest() if (folder / name).exists() else None
        for name in SOURCES
    }


def _untold_mixture(params: np.ndarray, tokens: np.ndarray, losses: np.ndarray) -> Observations:
    return from_columns(
        {
            "run": [str(number) for number in range(len(losses))],
            "tokens": tokens.tolist(),
            "params": params.tolist(),
            "loss.loss": losses.tolist(),
        }
    )
