"""What a training run says while it runs, and when it is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mixlab.corpora.sampling import TokenWindows
from mixlab.runs import Observation


class TokenCorpus(Protocol):
    """What a run needs of a corpus; `mixlab.corpora.shards.TokenisedCorpus` is one."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names, in order."""
        ...

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells this corpus from another."""
        ...

    def stream(self, domain: str, split: str) -> TokenWindows:
        """The tokens of a domain's "train" or "validation" split."""
        ...


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is, a few times a second at most."""

    step: int  # updates done
    steps: int  # updates in all
    train_loss_nats: float | None  # mean of the latest updates that were looked at
    tokens_per_second: float
    eta_seconds: float
    observation: Observation | None = None  # set when an evaluation has just been made
    tokens: int = 0  # seen so far
    learning_rate: float | None = None  # of the latest update
    gradient_norm: float | None = None  # mean of the latest updates, before the clip
    mfu: float | None = None  # share of the device's arithmetic; None where its peak is unknown
    memory_bytes: int | None = None  # the most so far
    skipped: int = 0  # updates left out by a guard
    execution: str = ""  # as in the result


@dataclass(frozen=True)
class TrainingResult:
    """What a run measured and consumed."""

    observations: tuple[Observation, ...]  # by rising step; `run` is empty
    # Per evaluation range, for the updates numbered from_step + 1 to to_step: {"from_step",
    # "to_step", "tokens": {domain: tokens}, "epochs": {domain: [{"epoch", "tokens"}, ...]},
    # "skipped": [step, ...]}. Tokens of skipped updates are counted: the run has read them.
    consumed: tuple[Mapping[str, Any], ...]
    evaluation_tokens: Mapping[str, int]  # tokens behind each domain's loss
    seconds: float  # of the run, over all its attempts; of a branch without its trunk
    tokens_per_second: float  # of the updates, without evaluations
    peak_memory_bytes: int
    execution: str  # "cpu, eager", "cuda, compiled", "cpu, eager: no C++ compiler found", ...
    weights: Path | None  # the final weights, where a folder was given and the run is done
    # "exhausted": before the first update that would read a domain more often than max_epochs.
    ended: Literal["done", "stopped", "exhausted"] = "done"
    note: str = ""  # why it ended before its last step
    step: int = 0  # updates done
    skipped: tuple[Mapping[str, Any], ...] = ()  # {"step", "what", "value"} of updates left out
    mfu: float | None = None  # of the updates, by `mfu_formula`
    mfu_formula: str = ""  # FLOPs per token, in words
