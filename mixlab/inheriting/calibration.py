"""Calibration: some sequences of the mixture, and the loss of a decoder on them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mixlab.corpora.sampling import Sampler
from mixlab.errors import InvalidLoss, InvalidRecipe, NotEnoughMemory
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from mixlab.training.decoder import Decoder
from mixlab.training.head import loss_sum
from mixlab.training.memory import free_bytes
from mixlab.training.records import TokenCorpus

SEQUENCES = 64
TOKEN_BYTES = 4 * 8  # while a batch is put together
Progress = Callable[[str, int, int], None]  # what is done now, how much of it, of how much
# Of one batch: gradients are weighed batch by batch, and larger ones average more away.
BATCH_TOKENS = 4096


def calibration(
    corpus: TokenCorpus,
    mixture: Mixture | MixtureSchedule,
    *,
    context: int,
    sequences: int = SEQUENCES,
    seed: int = 0,
) -> Tensor:
    """Training tokens (sequence, context + 1) of a mixture, or of a schedule's beginning.

    Raises InvalidRecipe for less than one sequence, InvalidMixture for domains that the corpus
    lacks, DomainTooSmall for a domain with less than one sequence, and NotEnoughMemory.
    """
    if sequences < 1:
        raise InvalidRecipe(f"Calibration needs at least 1 sequence, not {sequences}.")
    needed = TOKEN_BYTES * sequences * (context + 1)
    if needed > free_bytes():
        raise NotEnoughMemory(
            f"{sequences:,} sequences of {context} tokens take {needed / 1e9:.1f} GB, more than is "
            f"free; some {SEQUENCES} are enough to tell what matters."
        )
    streams = {name: corpus.stream(name, "train") for name in corpus.domains}
    sampler = Sampler(streams, mixture, context=context, batch_sequences=sequences, seed=seed)
    return torch.from_numpy(sampler.batch(0))


def batches(tokens: Tensor) -> Iterator[Tensor]:
    """The calibration's sequences, a few at a time."""
    yield from torch.split(tokens, max(1, BATCH_TOKENS // (tokens.shape[1] - 1)))


def batch_loss(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Mean loss of tokens (row, place + 1) in nats per token, a scalar with a gradient."""
    features = decoder.features(tokens[:, :-1]).flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    return loss_sum(features, decoder.head.weight, targets) / len(targets)


def silent(_: str, __: int, ___: int) -> None:
    """Progress that nobody sees."""


@torch.no_grad()
def mean_loss(decoder: Decoder, tokens: Tensor) -> float:
    """Loss of a decoder on all of the calibration, in nats per token."""
    device = decoder.embedding.weight.device
    total = sum(
        float(batch_loss(decoder, batch.to(device))) * len(batch) for batch in batches(tokens)
    )
    return total / len(tokens)


@torch.no_grad()
def check_finite(decoder: Decoder, tokens: Tensor) -> None:
    """Raise InvalidLoss, naming the first part of a decoder whose numbers are none.

    A NaN would be ranked like any other number, and the heir be one of chance.
    """
    for name, weight in decoder.named_parameters():
        if not weight.isfinite().all():
            raise InvalidLoss(
                f"The donor's {name} holds values that are no numbers (NaN or infinite); take "
                "another checkpoint of it."
            )
    device = decoder.embedding.weight.device
    for batch in batches(tokens):
        inputs = batch[:, :-1].to(device)
        x, rotation = decoder.embedding(inputs), decoder.rotation[: inputs.shape[1]]
        for number, block in enumerate(decoder.blocks):
            x = block(x, rotation)
            if not x.isfinite().all():
                raise InvalidLoss(
                    f"Layer {number} of the donor gives values that are no numbers (NaN or "
                    "infinite) on the calibration tokens; take another checkpoint of it."
                )
