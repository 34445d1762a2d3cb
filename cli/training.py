"""`mixlab train`: one training run from a shell, without the service.

The run is written into its folder as a spec and trained here, or by several processes that
torchrun starts. Whatever ends it, the same command goes on from its last checkpoint.
"""

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.errors import CommandFailed
from cli.methods import SIZES, growth_of, rounds_of, shaped
from cli.mixtures import schedule
from cli.options import MIXTURES, AsJson
from cli.training_output import Bar, Emit, Event, show
from mixlab.errors import InvalidRecipe, MissingFile
from mixlab.growing.planning import Growth
from mixlab.recipes import recipe as recipe_named
from mixlab.rounds.plan import Rounds

if TYPE_CHECKING:
    from mixlab.training.branches import Branch
    from mixlab.training.spec import RunSpec

IN_PARTS = {"growth.json": "that grows", "rounds.json": "in rounds"}
LOG = "torchrun.log"
GRACE_SECONDS = 90.0  # for the checkpoint of processes that are stopped
PORT = 29_500
TAIL_BYTES = 2000


Corpus = Annotated[
    Path | None, typer.Option(help="Folder of a tokenised corpus; HOME/corpora/ID of one.")
]
Recipe = Annotated[str | None, typer.Option(help="One that `mixlab recipe list` names.")]
Mixture = Annotated[
    str | None,
    typer.Option(
        metavar=MIXTURES,
        help="A mixture, a solution, or a schedule of mixtures.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The run's folder; runs/RECIPE where none is given.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of weights and batches; 0.")]
Shape = Annotated[
    str | None,
    typer.Option(metavar="SIZE=N,...", help=f"Instead of the recipe's: {', '.join(SIZES)}."),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Weight updates, instead of the recipe's.")]
MaxEpochs = Annotated[
    float | None, typer.Option(help="End before a domain is read more often than that.")
]
BranchFrom = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER@STEP",
        help="Go on from another run's checkpoint, with its corpus, recipe, mixture and seed.",
    ),
]
DecaySteps = Annotated[
    int | None, typer.Option(min=1, help="Let the branch's rate fall over so many updates.")
]
Grow = Annotated[
    str | None,
    typer.Option(
        metavar="FACTOR|auto",
        help="Train a model of so many times fewer layers first, and stack it: 4, or what divides.",
    ),
]
GrowAt = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens before that; by the published rule where none are given."),
]
RoundsOption = Annotated[
    int | None,
    typer.Option("--rounds", help="Train in so many rounds, the later on what is still hard: 2."),
]
RoundShare = Annotated[
    float | None,
    typer.Option(help="Of what the first round read, drawn for each later one; 0.5."),
]
FreeProportions = Annotated[
    bool, typer.Option("--free-proportions", help="Let domains that are hard gain by the draw.")
]
BeginWith = Annotated[
    Path | None,
    typer.Option(metavar="WEIGHTS", help="Begin with a file's weights, such as an heir's."),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Here, by torchrun. Without it: one per GPU, or one.")
]
Hosts = Annotated[
    int, typer.Option(min=1, help="Above 1: only write the spec and say what to start where.")
]
Sharding = Annotated[str, typer.Option(help="Of weights over processes: auto, replicate or shard.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of a process.")]
CheckpointSeconds = Annotated[float, typer.Option(min=0, help="A kill loses at most that much.")]
KeepLast = Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")]
Milestone = Annotated[
    list[int] | None, typer.Option(help="A step whose checkpoint stays for ever; repeat it.")
]
Tracker = Annotated[list[str] | None, typer.Option(help="tensorboard, wandb or mlflow; repeat it.")]


def train(
    corpus: Corpus = None,
    recipe: Recipe = None,
    shape: Shape = None,
    mixture: Mixture = None,
    out: Out = None,
    seed: Seed = None,
    steps: Steps = None,
    max_epochs: MaxEpochs = None,
    branch_from: BranchFrom = None,
    decay_steps: DecaySteps = None,
    grow: Grow = None,
    grow_at: GrowAt = None,
    rounds: RoundsOption = None,
    round_share: RoundShare = None,
    free_proportions: FreeProportions = False,
    begin_with: BeginWith = None,
    processes: Processes = None,
    hosts: Hosts = 1,
    sharding: Sharding = "auto",
    threads: Threads = None,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    keep_last: KeepLast = 2,
    milestone: Milestone = None,
    tracker: Tracker = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe on a mixture. Ctrl-C makes a checkpoint; the same command goes on from it."""
    from mixlab.training.beginning import Beginning
    from mixlab.training.launching import visible_gpus

    spec = _numbers(corpus, recipe, shape, mixture, seed, steps, branch_from, decay_steps, out)
    spec = replace(
        spec,
        max_epochs=max_epochs,
        sharding=sharding,  # type: ignore[arg-type]
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        keep_last=keep_last,
        milestones=tuple(milestone or ()),
        trackers=tuple(tracker or ()),
    )
    if begin_with is not None:
        spec = replace(spec, beginning=Beginning(begin_with.absolute()))
    in_rounds = rounds_of(rounds, round_share, free_proportions, grow, hosts)
    growth = growth_of(spec, grow, grow_at, hosts)
    if growth is None and in_rounds is None:
        _write(spec)
    processes = processes or max(1, visible_gpus())
    if hosts > 1:
        _tell_hosts(spec.file, hosts, processes)
        return
    console = Console(stderr=True)
    with stopping(console) as stop, Bar(console, spec.recipe.name) as bar:
        ended = _trained(spec, growth, in_rounds, processes, bar, stop)
    show(spec.folder, ended, as_json)


def _numbers(
    corpus: Path | None,
    recipe: str | None,
    shape: str | None,
    mixture: str | None,
    seed: int | None,
    steps: int | None,
    branch_from: str | None,
    decay_steps: int | None,
    out: Path | None,
) -> "RunSpec":
    """What decides the run's numbers: given, or those of the run that it branches off."""
    from mixlab.training.spec import RunSpec

    if branch_from is not None:
        trunk, start = _trunk(branch_from, decay_steps)
        if corpus or recipe or shape or mixture or steps or seed is not None:
            raise typer.BadParameter(
                "a branch has its trunk's corpus, recipe, mixture and seed, and ends after "
                "--decay-steps",
                param_hint="--branch-from",
            )
        name = f"{trunk.folder.name}-at-{start.step}-decay-{decay_steps}"
        folder = (out or trunk.folder.parent / name).absolute()
        return replace(trunk, folder=folder, start=start, milestones=(), events=None)
    if decay_steps is not None:
        raise typer.BadParameter("needs --branch-from", param_hint="--decay-steps")
    missing = {"--corpus": corpus, "--recipe": recipe, "--mixture": mixture}
    for option, value in missing.items():
        if value is None:
            raise typer.BadParameter("needed, unless --branch-from has it", param_hint=option)
    chosen = shaped(recipe_named(str(recipe)), shape)
    return RunSpec(
        corpus=Path(str(corpus)).absolute(),
        recipe=chosen if steps is None else chosen.lasting(steps),
        schedule=schedule(str(mixture)),
        folder=(out or Path("runs") / chosen.name).absolute(),
        seed=seed or 0,
    )


def _trunk(given: str, decay_steps: int | None) -> "tuple[RunSpec, Branch]":
    """The run to branch off, and where."""
    from mixlab.training.branches import Branch
    from mixlab.training.spec import SPEC, RunSpec

    folder, at, step = given.rpartition("@")
    if not at or not step.isdigit():
        raise typer.BadParameter(f"{given!r} must read FOLDER@STEP", param_hint="--branch-from")
    if decay_steps is None:
        raise typer.BadParameter("a branch needs its length", param_hint="--decay-steps")
    spec = RunSpec.read(Path(folder) / SPEC)
    return spec, Branch(spec.folder, int(step), decay_steps)


def _write(spec: "RunSpec") -> None:
    """Write the spec into the run's folder. Raises InvalidRecipe where another run's is there."""
    from mixlab.training.spec import RunSpec

    path = spec.file
    for name, how in IN_PARTS.items():
        if (spec.folder / name).exists():
            raise InvalidRecipe(
                f"{spec.folder} holds a run {how}; go on with its own options, or give this one "
                "its own folder with --out."
            )
    # Without a checkpoint nothing is lost: the command before may have been a slip.
    if path.exists() and (spec.folder / "checkpoints").exists():
        before, now = RunSpec.read(path).to_dict(), spec.to_dict()
        other = [name for name in ("corpus", "recipe", "schedule", "seed", "start", "beginning")
                 if before[name] != now[name]]  # fmt: skip
        if other:
            raise InvalidRecipe(
                f"{spec.folder} holds a run with another {' and '.join(other)}; give it its own "
                "folder with --out."
            )
    if not spec.corpus.is_dir():
        raise MissingFile(f"There is no folder {spec.corpus} of a tokenised corpus.")
    spec.write(path)


def _tell_hosts(path: Path, hosts: int, processes: int) -> None:
    command = [
        "torchrun", "--nnodes", str(hosts), "--nproc-per-node", str(processes),
        "--rdzv-id", path.parent.name, "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"FIRST_HOST:{PORT}", "-m", "mixlab.training", str(path),
    ]  # fmt: skip
    typer.echo(f"The spec is {path}. Corpus and run must lie on a file system that all hosts see.")
    typer.echo(f"Start this on each of the {hosts} hosts, with the first host's name in it:")
    typer.echo(shlex.join(command))


@contextmanager
def stopping(console: Console) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came. A second Ctrl-C ends at once."""
    asked = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        console.print("stopping after this step; a checkpoint is written")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield asked.is_set
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _trained(
    spec: "RunSpec",
    growth: Growth | None,
    rounds: Rounds | None,
    processes: int,
    emit: Emit,
    stop: Callable[[], bool],
) -> Event:
    """Train the run, in one part or several; the last event."""
    from mixlab.growing.running import run_grown
    from mixlab.rounds.running import run_rounds

    def part(spec: "RunSpec", tell: Emit, stop: Callable[[], bool]) -> Event:
        return _run(spec, processes, tell, stop)

    if growth is not None:
        return run_grown(spec, growth, emit=emit, stop=stop, run=part, processes=processes)
    if rounds is not None:
        return run_rounds(spec, rounds, emit=emit, stop=stop, run=part)
    return part(spec, emit, stop)


def _run(spec: "RunSpec", processes: int, emit: Emit, stop: Callable[[], bool]) -> Event:
    """Train what is written in the spec's folder, here or in several processes; the last event."""
    from mixlab.training.launching import Ranks, RanksCrashed
    from mixlab.training.running import run_spec

    if processes == 1:
        return run_spec(spec, emit=emit, stop=stop)
    log = spec.folder / LOG
    with (
        log.open("ab") as output,
        Ranks.start(
            spec.file, processes, grace_seconds=GRACE_SECONDS, threads=spec.threads,
            output=output, own_session=True,
        ) as ranks,
    ):  # fmt: skip
        try:
            return ranks.watch(emit, stop)
        except RanksCrashed as problem:
            raise CommandFailed(
                f"{problem} The same command goes on from the last checkpoint. {log} ends with:\n"
                f"{log.read_bytes()[-TAIL_BYTES:].decode(errors='replace')}"
            ) from problem
