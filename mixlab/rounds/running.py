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

from collections.abc import Iterator
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
from mixlab.rounds.scores import read_scores
from mixlab.rounds.scoring import score, scored_run
from mixlab.schedules import MixtureSchedule
from mixlab.training.beginning import Beginning
from mixlab.training.events import Emit, Event
from mixlab.training.parts import Parts, claim
from mixlab.training.running import Run, Stop
from mixlab.training.spec import RunSpec
from mixlab.training.weights import WEIGHTS

ASKED, SCORES = "rounds.json", "scores"
PARTS = 8  # files of scores of a round


def run_rounds(
    spec: RunSpec, rounds: Rounds, *, emit: Emit, stop: Stop, run: Run | None = None
) -> Event:
    """Train what `spec` describes in rounds; `run` trains a round, here where none is given.

    Returns the last event, "ended", or "stopped": the same call goes on from there. Events are of
    all rounds as one, and name their stage.

    Raises what `train` raises; before any work InvalidRecipe for too few updates, a schedule of
    several mixtures, a run that begins elsewhere, `max_epochs`, and a folder of another run.
    """
    asked = _Rounds(spec, rounds)
    asked.claim()
    return asked.train(Parts(spec.recipe.steps, emit=emit, stop=stop, run=run))


class _Rounds:
    def __init__(self, spec: RunSpec, rounds: Rounds) -> None:
        _check(spec)
        self.spec = replace(spec, corpus=spec.corpus.absolute(), folder=spec.folder.absolute())
        self.rounds = rounds
        self.corpus = TokenisedCorpus.open(spec.corpus)
        self.recipes = rounds.recipes(spec.recipe.for_vocabulary(self.corpus.vocabulary))

    def folder(self, number: int) -> Path:
        """Of a round, counted from 1."""
        last = number == self.rounds.count
        return self.spec.folder if last else self.spec.folder / f"round-{number}"

    def claim(self) -> None:
        """Say in the folder what is trained there. Raises InvalidRecipe where it is another run."""
        told = {
            "rounds": asdict(self.rounds), "recipe": self.spec.recipe.to_dict(),
            "schedule": self.spec.schedule.to_dict(), "seed": self.spec.seed,
            "corpus": self.corpus.fingerprint,
        }  # fmt: skip
        claim(self.spec.folder, ASKED, told, else_holds="of one round")

    def train(self, parts: Parts) -> Event:
        """All rounds, as far as they are not done."""
        count = self.rounds.count
        for number in range(1, count):
            stage = f"round {number} of {count}"
            told = parts.train(self._spec(number), stage)
            if told["event"] == "stopped":
                return parts.end(told)
            parts.stage(f"score {stage}")
            if not self._drawn(number, parts.stop):
                return parts.end({**told, "event": "stopped"})
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
        if self.rounds.keep_proportions:
            return self.spec.schedule
        return MixtureSchedule.of(Mixture.normalised(drawn.told["drawn"]))

    def _drawn(self, number: int, stop: Stop) -> bool:
        """Score what the first round read, and draw the next one's text; False where stopped."""
        file = self.folder(number + 1) / DRAWN_FILE
        if file.is_file():
            return True
        recipe, spec = self.recipes[0], self.spec
        scores = self.folder(number) / SCORES
        for part in range(PARTS):
            done = score(
                recipe, self.corpus, spec.schedule, seed=spec.seed,
                weights=self.folder(number) / WEIGHTS, folder=scores, part=part, parts=PARTS,
                threads=spec.threads, stop=stop,
            )  # fmt: skip
            if not done:
                return False
        run = scored_run(recipe, spec.schedule, spec.seed, self.corpus)
        found = draw(
            read_scores(scores, PARTS, spec.schedule.domains, run),
            self.rounds.share,
            seed=spec.seed + number,
            keep_proportions=self.rounds.keep_proportions,
            unit=self.rounds.unit,
        )
        write_drawn(
            file, found.windows, context=recipe.architecture.context,
            corpus=self.corpus.fingerprint, told={**found.told(), **asdict(self.rounds)},
        )  # fmt: skip
        return True


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
