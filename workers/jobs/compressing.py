"""The tokenizer of another corpus with fewer tokens, for a corpus that asks for it.

    home/corpora/<corpus>/tokenizer.compressed.json

Made once, from the other corpus's counts at the mixture; of the same corpus and mixture it is the
same to the byte, so that an attempt that is killed meanwhile costs time alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixlab.compressing import check_own, check_vocabulary, compress, shares_in
from mixlab.corpora.files import write_atomically
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.mixture import Mixture
from workers.jobs.context import JobContext
from workers.jobs.waiting import measured

COMPRESSED = "tokenizer.compressed.json"


def source_there(context: JobContext, asked: Mapping[str, Any] | None, folder: Path) -> bool:
    """Whether all is there to tokenise with: the tokenizer, or the corpus that it is made of.

    If not, a child job measures that corpus, and this job waits. Raises what the child met.
    """
    if asked is None or (folder / COMPRESSED).is_file():
        return True
    return measured(context, str(asked["corpus_id"]))


def compressed_tokenizer(context: JobContext, asked: Mapping[str, Any], folder: Path) -> Path:
    """The file of the smaller tokenizer, made now if it isn't there.

    Raises InvalidCorpus for a vocabulary that is no part of the tokenizer, EmptyDomain for a
    domain of the mixture without tokens, and TruncatedFile for shards that are damaged.
    """
    file = folder / COMPRESSED
    if not file.is_file():
        context.progress("compress", 0.0)
        source = TokenisedCorpus.open(context.settings.corpus_folder(str(asked["corpus_id"])))
        tokenizer = load_tokenizer(source.folder / "tokenizer.json")
        check_own(source, tokenizer)
        vocabulary = int(asked["vocabulary"])
        check_vocabulary(tokenizer, vocabulary)
        shares = shares_in(source, Mixture(asked["proportions"]))
        made = compress(tokenizer, shares, vocabulary).tokenizer
        write_atomically(file, lambda path: made.save(str(path)))
    return file
