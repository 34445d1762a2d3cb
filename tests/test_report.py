"""The report says what was measured, in whichever direction it came out."""

import re
from pathlib import Path
from typing import Any

import pytest

from mixlab import report as reports
from mixlab.report import html, verdict, write_pictures

DOMAINS = ("code", "legal", "talk")
MIXTURES = {
    "natural": (0.6, 0.3, 0.1),
    "uniform": (1 / 3, 1 / 3, 1 / 3),
    "conditional_entropy": (0.3, 0.3, 0.4),
    "solved": (0.4, 0.35, 0.25),
}
PARAMETERS = {"scale": 8.0, "alpha": 0.1, "beta": 0.4, "floor": 2.0}


def law(share: float, step: float) -> float:
    return float(share**-0.1 * (8.0 * step**-0.4 + 2.0))


def made(*, solved_gain: float, noise: float | None) -> dict[str, Any]:
    gains = {"natural": 0.0, "uniform": 0.02, "solved": solved_gain}
    return {
        "domains": [
            {
                "name": name,
                "train_tokens": 1_000_000,
                "validation_tokens": 50_000,
                "documents": 10,
                "duplicates": 0,
                "entropy_nats": {"shannon": 6.0, "joint": 9.0, "conditional": 3.0},
            }
            for name in DOMAINS
        ],
        "mixtures": {k: dict(zip(DOMAINS, v, strict=True)) for k, v in MIXTURES.items()},
        "proxy_runs": [{"label": "uniform"}] * 4,
        "observations": [
            {
                "label": kind,
                "step": step,
                "mixture": dict(zip(DOMAINS, shares, strict=True)),
                "losses_nats": {
                    name: law(share, step) for name, share in zip(DOMAINS, shares, strict=True)
                },
            }
            for kind, shares in MIXTURES.items()
            for step in (50, 100)
        ],
        "fit": {
            "law": "bimix",
            "domains": {
                name: {
                    "parameters": PARAMETERS,
                    "standard_errors": {**dict.fromkeys(PARAMETERS, 0.01), "floor": None},
                    "status": "at_bound",
                    "r2": 0.99,
                    "heldout_mre_percent": None if noise is None else 1.0,
                    "seed_noise_nats": noise,
                }
                for name in DOMAINS
            },
            "gain_noise_nats": noise,
            "noise_runs": 1 if noise is None else 3,
        },
        "long_run": {
            "steps": 400,
            "predicted_nats": 4.0,
            "measured_nats": 4.04,
            "relative_error_percent": -0.99,
            "domains": {n: {"predicted_nats": 4.0, "measured_nats": 4.04} for n in DOMAINS},
            "curve": [{"step": 200, "measured_nats": 4.2}, {"step": 400, "measured_nats": 4.04}],
        },
        "target_runs": {
            kind: {
                "measured_nats": 4.0 - gain,
                "measured_gain_nats": gain,
                "predicted_gain_nats": gain,
                "domains": {name: {"measured_nats": 4.0} for name in DOMAINS},
            }
            for kind, gain in gains.items()
        },
        "seconds": {"proxy_runs": 10.0},
        "target": {"recipe": "target_small", "parameters": 1_000_000, "tokens": 1_600_000},
        "budget_tokens": 1_600_000,
        "proxy_steps": 100,
        "notes": ["the objective looks beyond the steps observed"],
        "machine": "a machine",
        "version": "0",
    }


@pytest.mark.parametrize("noise", [0.01, None])
def test_the_page_needs_no_other_file_and_survives_missing_noise(
    noise: float | None, tmp_path: Path
) -> None:
    page = html(made(solved_gain=0.03, noise=noise))
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", page)
    assert page.count("<svg") == len(reports.FIGURES)
    assert all(name in page for name in DOMAINS)
    assert "beyond the steps observed" in page
    found = write_pictures(made(solved_gain=0.03, noise=noise), tmp_path)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found)


def test_a_domain_name_can_not_inject_markup() -> None:
    report = made(solved_gain=0.03, noise=0.01)
    report["machine"] = "<script>alert(1)</script>"
    assert "<script>" not in html(report)


def test_the_verdict_says_who_won_and_by_how_many_times_the_noise() -> None:
    won = verdict(made(solved_gain=0.03, noise=0.01))
    assert "0.0300 nats per token lower" in won
    assert "3.0 times the seed noise" in won
    assert "better still" not in won
    second = verdict(made(solved_gain=0.005, noise=0.01))
    assert "The uniform mixture did better still, by 0.0150 (1.5 times" in second
    lost = verdict(made(solved_gain=-0.01, noise=0.01))
    assert "0.0100 nats per token higher" in lost
    assert "not measured" in verdict(made(solved_gain=0.03, noise=None))
