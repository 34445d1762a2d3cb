"""The small corpus and mixture of the training tests."""

from tests.training.conftest import corpus, mixture

__all__ = ["corpus", "mixture"]
