"""Virtual environments of the peers: one each, because their pins of huggingface-hub exclude
each other. The torch is the one that mixlab is pinned to.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MADE = ".made"  # written when every package is there


def pythons(folder: Path) -> dict[str, str]:
    """The interpreter of each peer's environment in the folder, made where it isn't there.

    Without those that couldn't be made, which is told.
    """
    found = {}
    for pins in sorted(HERE.glob("peers-*.txt")):
        name = pins.stem.removeprefix("peers-")
        python = folder / name / "bin" / "python"
        try:
            _make(folder / name, python, pins)
        except (OSError, subprocess.CalledProcessError) as problem:
            sys.stderr.write(f"{name} is left out, its environment can't be made: {problem}\n")
        else:
            found[name] = str(python)
    return found


def _make(folder: Path, python: Path, pins: Path) -> None:
    stamp = folder / MADE
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return
    sys.stderr.write(f"making {folder} with {', '.join(pins.read_text().split())}\n")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off"]
    # torch first and alone: never one that a dependency would ask for.
    torch = pins.read_text().split()[0]
    subprocess.run([*install, torch], check=True)
    subprocess.run([*install, "-r", str(pins)], check=True)
    stamp.write_text(pins.read_text())
