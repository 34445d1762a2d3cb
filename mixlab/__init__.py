"""mixlab: in what proportions to train a language model on your domains.

    found = mixlab.fit("runs.csv")                      each target by the law that suits it
    solution = mixlab.solve(found, budget_tokens=1e10)  the best mixture, and what it rests on
    mixlab.predict(found, {"code": 0.4, "web": 0.6}, budget_tokens=1e10)
    mixlab.next_runs(found, "runs.csv", count=4)        what to run to be surer
    mixlab.score("runs.csv", "other_runs.csv")          how well one table predicts the other

They load on first use, so that `import mixlab` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixlab.shortcuts import first_runs, fit, next_runs, predict, score, solve

__all__ = ["__version__", "first_runs", "fit", "next_runs", "predict", "score", "solve"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mixlab.shortcuts"), name)
    raise AttributeError(f"module 'mixlab' has no attribute {name!r}")
