"""`mixlab train` on a small corpus, as its tests call it."""

from pathlib import Path

from typer.testing import CliRunner, Result

from cli.main import app


def train(folder: Path, *options: str, **changes: str | None) -> Result:
    """Run it on `folder`/corpus, with these options instead of the usual ones; None leaves out."""
    given: dict[str, str | None] = {
        "corpus": str(folder / "corpus"), "recipe": "proxy_smoke", "steps": "12",
        "mixture": "counting=0.5,noise=0.5", "threads": "1", "out": str(folder / "run"),
        "processes": "1",
    }  # fmt: skip
    words = [w for k, v in (given | changes).items() if v is not None for w in (f"--{k}", v)]
    return CliRunner().invoke(app, ["train", *words, *options], env={"COLUMNS": "100"})
