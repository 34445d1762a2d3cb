"""Every error that mixlab raises on purpose, drawn as a tree.

    MixlabError
    ├── InvalidInput            the request itself is wrong; nothing was started
    │   ├── InvalidMixture          proportions negative, not finite or not summing to 1
    │   ├── InvalidBudget           a token budget that is not a positive number
    │   ├── InvalidRecipe           a recipe whose numbers contradict each other
    │   ├── InvalidCorpus           duplicate domain names, one domain only, ...
    │   ├── InvalidTable            a table of observations that can't be read as one
    │   ├── InvalidLoss             NaN, infinite or non-positive losses
    │   ├── TooFewMixtures          fewer mixtures than the law has parameters
    │   ├── InfeasibleConstraints   no mixture obeys all of them
    │   └── PathNotAllowed          outside the allowed roots, or through a link
    ├── Unknown                 a name or id that nothing answers to
    │   ├── UnknownRecipe, UnknownLaw, UnknownCatalogue
    │   └── UnknownCorpus, UnknownMixture, UnknownRun, UnknownJob, UnknownKey
    ├── UnreadableData          the text can't be used as it is
    │   ├── MissingFile, MissingTextField, TruncatedFile, LimitExceeded
    │   └── EmptyDomain, DomainTooSmall
    ├── FetchFailed             a named corpus could not be brought here
    │   └── ChecksumMismatch, UnsafeArchive, MissingClient
    ├── Diverged                a training run whose loss is no longer a number
    ├── NotEnoughMemory         a recipe that this machine's memory can't hold
    ├── NotWritten              a checkpoint that a disk didn't take
    ├── QuotaExceeded           as many jobs as the API key may have at once
    ├── MissingExtra            an optional package that is not installed here
    └── Conflict                the state of the thing forbids it
        ├── NotReady                asked before the job behind it is done
        ├── AlreadyExists           a folder to write that holds something
        ├── InUse                   a folder that another process is writing to
        └── LeaseLost               another worker holds the job now

Messages say what is wrong, the value, and the way out. HTTP statuses live in
`api/errors.py` alone.
"""

import re


class MixlabError(Exception):
    """Base of every deliberate error.

    `passing` says that the same thing may well work a little later: the service tries again.
    """

    passing = False

    @classmethod
    def slug(cls) -> str:
        """The error's name in problem documents: `InvalidMixture` is `invalid-mixture`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


class InvalidInput(MixlabError):
    """The request itself is wrong; nothing was started."""


class InvalidMixture(InvalidInput):
    """Proportions that are negative, not finite, or don't sum to 1."""


class InvalidBudget(InvalidInput):
    """A token budget that is not a positive number."""


class InvalidRecipe(InvalidInput):
    """A recipe whose numbers contradict each other."""


class InvalidCorpus(InvalidInput):
    """A corpus description that can't be a corpus."""


class InvalidTable(InvalidInput):
    """A table of observations that can't be read as one."""


class InvalidLoss(InvalidInput):
    """Losses that are NaN, infinite or not positive."""


class TooFewMixtures(InvalidInput):
    """Fewer usable mixtures than the law needs."""


class InfeasibleConstraints(InvalidInput):
    """Constraints that no mixture obeys together."""


class PathNotAllowed(InvalidInput):
    """A path outside the allowed roots, through a symbolic link, or to no regular file."""


class Unknown(MixlabError):
    """A name or id that nothing answers to."""


class UnknownRecipe(Unknown):
    """No recipe of that name."""


class UnknownLaw(Unknown):
    """No law of that name."""


class UnknownCatalogue(Unknown):
    """No named corpus of that name."""


class UnknownCorpus(Unknown):
    """No corpus with that id."""


class UnknownMixture(Unknown):
    """No mixture with that id."""


class UnknownRun(Unknown):
    """No training run with that id."""


class UnknownJob(Unknown):
    """No job with that id."""


class UnknownKey(Unknown):
    """No API key has that id."""


class UnreadableData(MixlabError):
    """The text can't be used as it is."""


class MissingFile(UnreadableData):
    """A path that names nothing, or a folder with no readable file in it."""


class MissingTextField(UnreadableData):
    """A record without the text field, or whose text is not a string."""


class TruncatedFile(UnreadableData):
    """A compressed, Parquet or JSONL file that is damaged or ends too early."""


class LimitExceeded(UnreadableData):
    """A file that takes more bytes, memory or time to read than allowed."""


class EmptyDomain(UnreadableData):
    """A domain without one usable document."""


class DomainTooSmall(UnreadableData):
    """A domain with fewer tokens than one sequence of the recipe."""


class FetchFailed(MixlabError):
    """A named corpus could not be brought here."""

    passing = True  # most often a network's fault


class ChecksumMismatch(FetchFailed):
    """A downloaded package whose sha256 is not the pinned one."""


class UnsafeArchive(FetchFailed):
    """An archive with a member that would leave its folder, or unpacks to too much."""

    passing = False


class MissingClient(FetchFailed):
    """A package client (apt-get, npm) that this machine lacks."""

    passing = False


class Diverged(MixlabError):
    """A training run whose loss is no longer a finite number."""


class NotEnoughMemory(MixlabError):
    """A recipe that needs more memory than this machine has free."""


class NotWritten(MixlabError):
    """A checkpoint that couldn't be written: a full disk, a folder that is read-only, ..."""

    passing = True


class QuotaExceeded(MixlabError):
    """As many jobs as the API key may have at once."""

    passing = True


class MissingExtra(MixlabError):
    """An optional package that is not installed here."""


class Conflict(MixlabError):
    """The state of the thing forbids what was asked."""


class NotReady(Conflict):
    """Asked for before the job behind it is done."""


class AlreadyExists(Conflict):
    """A new folder was to be written where there is something already."""


class InUse(Conflict):
    """Another process writes to that folder."""

    passing = True


class LeaseLost(Conflict):
    """Another attempt holds the job now; what this one writes is refused."""


def named(slug: str, message: str) -> MixlabError:
    """The error that a slug stands for, as when a job hands on what its child job met."""
    classes = [MixlabError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    return next((kind for kind in classes if kind.slug() == slug), MixlabError)(message)
