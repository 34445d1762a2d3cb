"""How many processes a job has, and so how many GPUs.

Which of them are free, and when, is the supervisor's business (gpu_leases.py): a job's process
sees those that it was given, and no others.
"""

from mixlab.ledger.records import Job, JobKind, RunRole
from mixlab.recipes import Recipe
from workers.gpus import installed
from workers.settings import WorkerSettings

# Fewer tokens of a step than that, and a process waits for the others more than it computes.
LEAST_TOKENS_PER_PROCESS = 4096


def processes_of(job: Job, settings: WorkerSettings) -> int:
    """How many processes share the job: more than one for full-scale runs alone.

    As many as there are GPUs, as far as a step has tokens for them, or as many as the settings
    say; each needs a sequence of every step, and a GPU of its own where there are any.
    """
    if job.kind is not JobKind.TRAIN or job.payload.get("role") != RunRole.FULL:
        return 1
    recipe = Recipe.from_dict(job.payload["recipe"])
    gpus = len(installed(settings))
    most = min([recipe.batch_sequences, *(size for _, size in recipe.batch_stages)])
    if settings.training_processes is not None:
        return min(settings.training_processes, most, gpus or most)
    worthwhile = recipe.tokens_per_step // LEAST_TOKENS_PER_PROCESS
    return max(1, min(gpus, worthwhile, most))
