"""Metrics of a run: one line each time that it looks at its losses, and what share of the
device's arithmetic it uses.

    MFU = tokens per second * FLOPs per token / (peak FLOP/s of the device * devices)

A share without its formula says little (mixlab/recipes/shape.py): MFU_FORMULA goes with the
number, and where the peak isn't known there is no MFU.

    <folder>/metrics.jsonl      {"step", "tokens", "train_loss_nats", "gradient_norm", ...}

The file is only appended to; going back to a checkpoint takes away the lines after it, and a
line that a kill tore, so that every step stands there once.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mixlab.corpora.files import write_atomically
from mixlab.recipes import Flops, Recipe
from mixlab.training.placement import in_bfloat16

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
MFU_FORMULA = Flops.WITHOUT_EMBEDDING

# Dense bfloat16 with sums in float32, FLOP/s, by a part of the device's name; the first that
# matches counts. Sources: NVIDIA's data sheets of each (sparse figures halved).
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "H800": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str) -> float | None:
    """What the device can do in a second in bfloat16; None where that isn't known."""
    words = f" {device_name.replace('-', ' ')} "
    return next((peak for name, peak in PEAK_FLOPS.items() if f" {name} " in words), None)


def utilisation(
    recipe: Recipe, tokens_per_second: float, device: torch.device, devices: int
) -> float | None:
    """MFU by MFU_FORMULA; None where the peak isn't known, as on the CPU and in float32."""
    if device.type != "cuda" or not in_bfloat16(device, recipe.precision):
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    if peak is None:
        return None
    return tokens_per_second * recipe.architecture.flops_per_token(MFU_FORMULA) / (peak * devices)


class Metrics:
    """The run's file of metrics; without a folder there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / METRICS
        self._torn = False

    def add(self, values: Mapping[str, Any]) -> None:
        """Append one line. One that the disk doesn't take costs a warning, not the run."""
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write("\n" * self._torn + json.dumps(values) + "\n")
            self._torn = False
        except OSError as problem:
            log.warning("%s lacks the line of step %s: %s", self.file, values["step"], problem)
            self._torn = True

    def lines(self) -> list[dict[str, Any]]:
        """What was written so far, without lines that were torn."""
        if self.file is None or not self.file.is_file():
            return []
        whole = self.file.read_text(encoding="utf-8").split("\n")[:-1]
        return [line for line in map(_read, whole) if line is not None]

    def rewind(self, step: int) -> int:
        """Take away the lines after a step; the last step that had a line before, 0 for none."""
        found = self.lines()
        if self.file is not None and self.file.is_file():
            kept = "".join(json.dumps(line) + "\n" for line in found if line["step"] <= step)
            write_atomically(self.file, lambda path: path.write_text(kept, encoding="utf-8"))
        return max((line["step"] for line in found), default=0)


def _read(line: str) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return values
