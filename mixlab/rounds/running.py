"""A run in rounds, in one folder: train, score what was read, draw a share of it, train on that.

    <folder>/rounds.json               what was asked for, so that nothing else goes on here
    <folder>/round-1/                  the first round's run, a folder like any run's
    <folder>/round-1/ended.json        its result, once it has one
    <folder>/round-1/scores/           losses by its model of all that the first round read
    <folder>/round-2/drawn.parquet     what the second round trains on; then its run; and so on
    <folder>/                          the last round's run

The recipe's updates are those of all rounds together. Each later round has `share` times as many
as the first, begins with the weights of the round before it, fresh AdamW state and a schedule of
rates of its own, and draws anew from what the first round read. Each part goes on where it was
killed or stopped, and what is done is not done again.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mixlab.corpora.drawn import DRAWN_FILE, DrawnSet, write_drawn
from mixlab.corpora.files import read_json
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe
from mixlab.mixture import Mixture
from mixlab.rounds.drawing import draw
from mixlab.rounds.plan import Rounds
from mixlab.rounds.scores import part_file, read_scores
from mixlab.rounds.scoring import Progress, score, scored_run
from mixlab.schedules import MixtureSchedule
from mixlab.training.beginning import Beginning
from mixlab.training.events import Emit, Event
from mixlab.training.parts import Parts, claim, held
from mixlab.training.running import Run, Stop
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS

ASKED, SCORES = "rounds.json", "scores"
PARTS = 8  # files of scores of a round

Score = Callable[[int], bool]


def run_rounds(
    spec: RunSpec,
    rounds: Rounds,
    *,
    emit: Emit,
    stop: Stop,
    run: Run | None = None,
    score: Score | None = None,
) -> Event:
    """Train what `spec` describes in rounds; `run` trains a round, here where none is given.

    `score` sees to the scores by the model of a round's number, and says whether all parts are
    there; where none is given they are made here, one after another. Returns the last event,
    "ended", or "stopped" by `stop` or for want of scores: the same call goes on from there.
    Events are of all rounds as one, and name their stage.

    Raises what `train` raises; before any work InvalidRecipe for too few updates, a schedule of
    several mixtures, a run that begins elsewhere, `max_epochs`, and a folder of another run; InUse
    where another process trains there.
    """
    asked = _Rounds(spec, rounds)
    asked.claim()
    parts = Parts(spec.recipe.steps, emit=emit, stop=stop, run=run)
    with held(asked.folder(1)):
        return asked.train(parts, score or (lambda number: asked.scored(number, stop)))


def score_part(
    spec: RunSpec,
    rounds: Rounds,
    number: int,
    part: int,
    *,
    stop: Stop,
    progress: Progress | None = None,
) -> bool:
    """Score a part, of PARTS, of what the first round read by the model of round `number`.

    Whether it is done: False where `stop()` said so. Raises what `score` raises.
    """
    return _Rounds(spec, rounds).score(number, part, stop, progress)


def unscored(folder: Path, rounds: Rounds, number: int) -> list[int]:
    """The parts of a round's scores that a run's folder lacks."""
    scores = folder_of(folder, rounds, number) / SCORES
    return [part for part in range(PARTS) if not part_file(scores, part, PARTS).is_file()]


def folder_of(folder: Path, rounds: Rounds, number: int) -> Path:
    """Of a round, counted from 1, in the run's folder."""
    return folder if number == rounds.count else folder / f"round-{number}"


class _Rounds:
    def __init__(self, spec: RunSpec, rounds: Rounds) -> None:
        _check(spec)
        self.spec = replace(spec, corpus=spec.corpus.absolute(), folder=spec.folder.absolute())
        self.rounds = rounds
        self.corpus = TokenisedCorpus.open(spec.corpus)
        self.recipes = rounds.recipes(spec.recipe.for_vocabulary(self.corpus.vocabulary))

    def folder(self, number: int) -> Path:
        """Of a round, counted from 1."""
        return folder_of(self.spec.folder, self.rounds, number)

    def claim(self) -> None:
        """Say in the folder what is trained there. Raises InvalidRecipe where it is another run."""
        told = {
            "rounds": asdict(self.rounds), "recipe": self.spec.recipe.to_dict(),
            "schedule": self.spec.schedule.to_dict(), "seed": self.spec.seed,
            "corpus": self.corpus.fingerprint,
        }  # fmt: skip
        claim(self.spec.folder, ASKED, told, else_holds="of one round")

    def train(self, parts: Parts, score: Score) -> Event:
        """All rounds, as far as they are not done."""
        count = self.rounds.count
        for number in range(1, count):
            stage = f"round {number} of {count}"
            told = parts.train(self._spec(number), stage)
            if told["event"] == "stopped":
                return parts.end(told)
            if (self.folder(number + 1) / DRAWN_FILE).is_file():
                continue
            parts.stage(f"score {stage}")
            if not score(number):
                return parts.end({**told, "event": "stopped"})
            self._draw(number)
        return parts.end(parts.train(self._spec(count), f"round {count} of {count}", last=True))

    def _spec(self, number: int) -> RunSpec:
        folder = self.folder(number)
        spec = replace(
            self.spec, recipe=self.recipes[number - 1], folder=folder, milestones=(), events=None
        )
        if number == 1:
            return spec
        drawn = DrawnSet.read(folder / DRAWN_FILE)
        return replace(
            spec,
            schedule=self._schedule(drawn),
            beginning=Beginning(self.folder(number - 1) / WEIGHTS),
            drawn=folder / DRAWN_FILE,
        )

    def _schedule(self, drawn: DrawnSet) -> MixtureSchedule:
        found = drawn.told["drawn"]
        if not self.rounds.keep_proportions:
            return MixtureSchedule.of(Mixture.normalised(found))
        # A share may be too small for a single sequence of the first round, and none is drawn.
        mixture = self.spec.schedule.stages[0].mixture
        shares = {name: share if found.get(name) else 0.0 for name, share in mixture}
        if shares == mixture.proportions:
            return self.spec.schedule
        return MixtureSchedule.of(Mixture.normalised(shares))

    def scored(self, number: int, stop: Stop) -> bool:
        """Score what the first round read, part after part; False where stopped."""
        return all(self.score(number, part, stop) for part in range(PARTS))

    def score(self, number: int, part: int, stop: Stop, progress: Progress | None = None) -> bool:
        """Score a part of what the first round read; False where stopped."""
        spec, folder = self.spec, self.folder(number)
        return score(
            self.recipes[0], self.corpus, spec.schedule, seed=spec.seed,
            weights=folder / WEIGHTS, folder=folder / SCORES, part=part, parts=PARTS,
            threads=spec.threads, stop=stop, progress=progress,
        )  # fmt: skip

    def _draw(self, number: int) -> None:
        """Draw the text of the round after this one, by the scores."""
        recipe, spec = self.recipes[0], self.spec
        scores = self.folder(number) / SCORES
        run = scored_run(recipe, spec.schedule, spec.seed, self.corpus)
        found = draw(
            read_scores(scores, PARTS, spec.schedule.domains, run),
            self.rounds.share,
            seed=spec.seed + number,
            keep_proportions=self.rounds.keep_proportions,
            unit=self.rounds.unit,
        )
        write_drawn(
            self.folder(number + 1) / DRAWN_FILE, found.windows,
            context=recipe.architecture.context,
            corpus=self.corpus.fingerprint,
            told={**found.told(), **asdict(self.rounds)},
        )  # fmt: skip


def _check(spec: RunSpec) -> None:
    for problem in _problems(spec):
        raise InvalidRecipe(f"A run in rounds {problem}")


def _problems(spec: RunSpec) -> Iterator[str]:
    if spec.start is not None or spec.beginning is not None or spec.drawn is not None:
        yield (
            "begins with its own first round, so it can't be a branch of another run, nor begin "
            "with given weights or drawn text; leave out one of them."
        )
    if len(spec.schedule.stages) > 1:
        yield "draws from one mixture, so its schedule can't have several stages; give one mixture."
    if spec.max_epochs is not None:
        yield "reads text again on purpose, so it takes no max_epochs; leave it out."
    if spec.milestones:
        yield "keeps no milestones; leave them out."


def drawn_for(folder: Path) -> dict[str, Any]:
    """What was drawn for each later round of a run's folder: shares before and after, and drift."""
    asked = read_json(folder / ASKED)
    count = int(asked["rounds"]["count"])
    folders = [folder / f"round-{number}" for number in range(2, count)] + [folder]
    return {
        f"round {number}": dict(DrawnSet.read(one / DRAWN_FILE).told)
        for number, one in enumerate(folders, start=2)
    }
