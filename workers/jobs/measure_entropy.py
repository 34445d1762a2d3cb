"""Job `measure_entropy`: the entropies of a tokenised corpus, its pairs counted on a GPU.

A child of `measure_corpus` where the service has GPUs. Counts, measures and standard errors equal
those of the CPU. Without a CUDA device torch counts on the CPU, to the same end.
"""

from collections.abc import Mapping
from typing import Any

from workers.jobs.context import JobContext
from workers.jobs.measure_corpus import only_one, record_entropies


def run(context: JobContext) -> Mapping[str, Any]:
    """Measure what is not measured yet."""
    from mixlab.entropy.on_device import count_blocks  # only here, since it loads torch

    corpus_id = str(context.job.payload["corpus_id"])
    folder = context.settings.corpus_folder(corpus_id)
    # Nothing is kept of a count that is cut off, so SIGTERM may end the process as it is.
    with only_one(folder):
        if context.ledger.corpus(corpus_id).entropy is None:
            record_entropies(context, corpus_id, count_blocks, begin=0.0)
    return {"href": f"/corpora/{corpus_id}"}
