"""The report says what was measured, in whichever direction it came out."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mixlab import report as reports
from mixlab.fitting import fit
from mixlab.laws import LAWS
from mixlab.report import html, verdict, write_pictures

DOMAINS = ("code", "legal", "talk")
MIXTURES = {
    "natural": (0.6, 0.3, 0.1),
    "uniform": (1 / 3, 1 / 3, 1 / 3),
    "conditional_entropy": (0.3, 0.3, 0.4),
    "solved": (0.4, 0.35, 0.25),
}
STEPS = (50, 100)


def observed() -> list[dict[str, Any]]:
    """Losses of four mixtures at two steps by BiMix."""
    return [
        {
            "run": kind,
            "label": kind,
            "step": step,
            "tokens": 4096 * step,
            "mixture": dict(zip(DOMAINS, shares, strict=True)),
            "losses_nats": {
                name: float(share**-0.1 * (8.0 * step**-0.4 + 2.0))
                for name, share in zip(DOMAINS, shares, strict=True)
            },
        }
        for kind, shares in MIXTURES.items()
        for step in STEPS
    ]


@cache
def saved_fit(law: str) -> dict[str, Any]:
    return fit(LAWS[law], reports.observations({"observations": observed()})).to_dict()


def made(
    *, solved_gain: float, noise: float | None, law: str = "bimix", bootstrap: bool = True
) -> dict[str, Any]:
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
        "observations": observed(),
        "saved_fit": saved_fit(law),
        "answer": {
            "status": "optimal",
            "gap_nats": 1e-9,
            "objective_nats": 3.9,
            "statements": ["one more epoch of talk is worth 0.003 nats"],
            "promise": {
                "objective_nats": 3.9,
                "low95": 3.85,
                "high95": 3.95,
                "gains": {
                    "natural": {
                        "nats": 0.07,
                        "corrected_nats": 0.0512 if bootstrap else None,
                        "low95": -0.0113,
                        "high95": 0.1137,
                    }
                },
            },
            "expected_regret_nats": 0.0345 if bootstrap else None,
            "regret": {
                "optimism_nats": 0.0123,
                "corrected_nats": 3.9123,
                "sampling_regret_nats": 0.002,
                "replicates": 100,
                "region": {name: [0.2, 0.4] for name in DOMAINS},
            }
            if bootstrap
            else None,
            "next_runs": {"next-01": dict.fromkeys(DOMAINS, 1 / 3)} if bootstrap else None,
        },
        "fit": {
            "law": law,
            "domains": {
                name: {
                    "law": law,
                    "formula": LAWS[law].formula,
                    "reason": f"{law}: held-out 0.5%" if bootstrap else None,
                    "parameters": saved_fit(law)["targets"][name]["parameters"],
                    "standard_errors": saved_fit(law)["targets"][name]["standard_errors"],
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
            "domains": {
                name: {
                    "predicted_nats": 4.0,
                    "low95": 3.9,
                    "high95": 4.1 if name != "talk" else 4.02,
                    "measured_nats": 4.04,
                }
                for name in DOMAINS
            },
            "law": {
                "steps": [50, 400],
                "nats": [4.5, 4.0],
                "low95": [4.4, 3.9],
                "high95": [4.6, 4.1],
            },
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


@pytest.mark.parametrize(
    ("noise", "law", "bootstrap"), [(0.01, "bimix", True), (None, "exponential", False)]
)
def test_the_page_needs_no_other_file_and_survives_what_is_not_known(
    noise: float | None, law: str, bootstrap: bool, tmp_path: Path
) -> None:
    page = html(made(solved_gain=0.03, noise=noise, law=law, bootstrap=bootstrap))
    assert not re.findall(r"(?:src|href)=[\"'](?!#|\s*data:)", page)
    assert page.count("<svg") == len(reports.FIGURES)
    assert all(name in page for name in DOMAINS)
    assert "beyond the steps observed" in page
    assert "one more epoch of talk" in page
    assert ("corrected it is 3.9123" in page) == bootstrap
    assert ("20.0 to 40.0 %" in page) == bootstrap
    assert ("next-01" in page) == bootstrap
    assert law in page
    found = write_pictures(made(solved_gain=0.03, noise=noise, law=law), tmp_path)
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
    assert "2 of 3 domains' losses lay in their 95 % intervals" in won
    second = verdict(made(solved_gain=0.005, noise=0.01))
    assert "The uniform mixture did better still, by 0.0150 (1.5 times" in second
    lost = verdict(made(solved_gain=-0.01, noise=0.01))
    assert "0.0100 nats per token higher" in lost
    assert "not measured" in verdict(made(solved_gain=0.03, noise=None))
