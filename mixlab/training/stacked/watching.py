"""The guards of stacked runs: each run is judged as it would be alone (training/guards.py).

What is no number leaves an update out at once, on the device, without anyone waiting for it.
What a guard finds when it looks back every few steps leaves the run behind from then on. Only
"skip" has to read every update's losses before it is made.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mixlab.errors import Diverged
from mixlab.recipes import Recipe
from mixlab.training.guards import SKIPS_IN_A_ROW, Anomaly
from mixlab.training.stacked.member import Member


class Watch:
    """Knows which runs go on."""

    def __init__(self, recipe: Recipe, members: Sequence[Member]) -> None:
        self.recipe, self.members = recipe, members
        self._pending: list[tuple[int, Tensor]] = []  # step; losses and norms (2, run), not read
        self._active: Tensor | None = None  # (run,), on the device

    def begin(self) -> None:
        """Forget what was known of the device; whoever has an error stays behind."""
        self._pending.clear()
        self._active = None

    def sound(self, step: int, losses: Tensor, norms: Tensor) -> Tensor:
        """Which runs this update is made for, shape (run,)."""
        if self._active is None:
            going = [member.error is None for member in self.members]
            self._active = torch.tensor(going, device=losses.device)
        self._pending.append((step, torch.stack((losses, norms))))
        if self.recipe.on_anomaly == "skip":
            return torch.tensor(self._judged(), device=losses.device)
        self._active = self._active & losses.isfinite() & norms.isfinite()
        return self._active

    def look(self, step: int) -> None:
        """Leave behind whoever has been worse since the look before than one that knows nothing."""
        self.read()
        for member in self.members:
            if member.error is None and (losses := member.state.losses):
                try:
                    member.guard.check_mean(step, sum(losses) / len(losses))
                except Diverged as problem:
                    self._leave(member, problem)
            member.state.losses.clear()
            member.state.norms.clear()

    def read(self) -> list[Anomaly | None]:
        """Read the losses that are pending; what is wrong with each run, which is left behind."""
        found: list[Anomaly | None] = [None] * len(self.members)
        if not self._pending:
            return found
        # One transfer from the device for all, shape (update, 2, run).
        table = torch.stack([values for _, values in self._pending]).tolist()
        for (step, _), (losses, norms) in zip(self._pending, table, strict=True):
            for place, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
                if self.members[place].error is None:
                    found[place] = self._seen(self.members[place], step, loss, norm)
        self._pending.clear()
        return found

    def _seen(self, member: Member, step: int, loss: float, norm: float) -> Anomaly | None:
        anomaly = member.guard.anomaly(step, loss, norm)
        if anomaly is None:
            member.state.losses.append(loss)
            member.state.norms.append(norm)
        elif self.recipe.on_anomaly == "skip":
            self._skipped(member, anomaly)
        else:
            self._leave(member, member.guard.diverged(anomaly))
        return anomaly

    def _judged(self) -> list[bool]:
        """The runs whose update isn't left out by "skip"; here the stack waits for the device."""
        found = self.read()
        return [
            member.error is None and anomaly is None
            for member, anomaly in zip(self.members, found, strict=True)
        ]

    def _skipped(self, member: Member, found: Anomaly) -> None:
        member.state.skipped.append(found.to_dict())
        if member.state.skips_in_a_row(found.step) >= SKIPS_IN_A_ROW:
            tried = f", the {SKIPS_IN_A_ROW}th update skipped in a row"
            self._leave(member, member.guard.diverged(found, tried=tried))

    def measured(self, step: int, place: int, losses_nats: Mapping[str, float]) -> bool:
        """Whether the losses of an evaluation are numbers; else the run is left behind."""
        member = self.members[place]
        for name, loss in losses_nats.items():
            if not math.isfinite(loss):
                found = Anomaly(step, f"validation loss of {name!r}", loss)
                self._leave(member, member.guard.diverged(found))
                return False
        return True

    def _leave(self, member: Member, error: Diverged) -> None:
        member.fail(error)
        self._active = None
