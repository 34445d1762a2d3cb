"""A model's weights for a compressed tokenizer: embedding and head keep the rows of kept tokens.

Everything else stays as it is, bit for bit, so that a text whose tokens were all kept gets the
logits that it had, of the tokens that are left. Two kinds of models are read:

    a run's folder, or its weights.safetensors     written as an imported model is
    a Hugging Face folder of a Llama               config.json has the new sizes and ids

Limits: weights in safetensors. Of a Hugging Face folder the weights, configurations and
tokenizer.json are written; other files, which may tell the old tokens, are left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mixlab.compressing.compression import Compressed
from mixlab.compressing.ranking import Ids
from mixlab.compressing.tensors import Header, read_header, select_rows
from mixlab.corpora.drawn import DRAWN_FROM
from mixlab.corpora.files import read_json, write_folder, write_json
from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenizer import load_tokenizer, vocabulary_of
from mixlab.errors import InvalidCorpus, InvalidRecipe, MissingFile, TruncatedFile
from mixlab.recipes.noted import NOTE, noted_architecture, noted_corpus, noted_run

WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Of the decoder, and of Llamas in transformers; a tied head is not stored.
TABLES = ("embedding.weight", "head.weight", "model.embed_tokens.weight", "lm_head.weight")
SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Model:
    """A model whose tables can follow a tokenizer. `folder` is None for a file alone."""

    files: tuple[Path, ...]
    folder: Path | None
    run: Mapping[str, Any] | None  # what a run's weights say of it; None for Hugging Face's
    rows: int  # of embedding and head


def compress_weights(source: Path, out: Path, kept_ids: Ids) -> None:
    """Write a file of weights with the kept rows of embedding and head.

    `kept_ids` are the old ids of the new tokens, shape (token,). What a run's file says of its
    shape follows. Raises MissingFile, TruncatedFile, InvalidRecipe for a file without a table or
    with fewer rows than the ids need, and NotWritten.
    """
    _compress_file(source, out, kept_ids, noted_run(read_header(source).metadata, source))


def _compress_file(source: Path, out: Path, kept_ids: Ids, run: Mapping[str, Any] | None) -> None:
    header = read_header(source)
    tables = _tables(header)
    _check_rows(source, tables, int(kept_ids.max()) + 1)
    metadata = dict(header.metadata)
    if run is not None:
        shape = {**noted_architecture(run, source), "vocabulary": len(kept_ids)}
        metadata[NOTE] = json.dumps({"architecture": shape, "compressed_from": str(source)})
    select_rows(source, out, dict.fromkeys(tables, kept_ids), metadata)


def open_model(path: Path) -> Model:
    """The model in a run's folder, a file of weights, or a Hugging Face folder.

    Raises MissingFile where there is none, TruncatedFile for one that can't be read, and
    InvalidRecipe for one without a table of embeddings.
    """
    files, folder = _files(path), path if path.is_dir() else None
    headers = {file: read_header(file) for file in files}
    tables = {name: rows for header in headers.values() for name, rows in _tables(header).items()}
    if not tables:
        raise InvalidRecipe(
            f"{path} has none of the tables {', '.join(TABLES)}; only mixlab's and Llama models' "
            "weights can follow a tokenizer."
        )
    first = files[0]
    run = None if (path / CONFIG).is_file() else noted_run(headers[first].metadata, first)
    if run is not None:
        noted_architecture(run, first)
    elif folder is not None and not (folder / CONFIG).is_file():
        raise MissingFile(
            f"{folder} has weights, but no {CONFIG} that tells what they are of; give the whole "
            "folder, or the file of weights alone."
        )
    return Model(tuple(files), folder, run, min(tables.values()))


def check_model(model: Model, corpus: TokenisedCorpus, tokenizer: Tokenizer) -> None:
    """Raise InvalidCorpus where the model reads other tokens than the corpus's tokenizer gives."""
    of, rows = model.folder or model.files[0], vocabulary_of(tokenizer)
    if model.rows < rows:
        raise InvalidCorpus(
            f"The model {of} has {model.rows:,} tokens, but the corpus's tokenizer {rows:,}; give "
            "weights that were trained on this corpus."
        )
    trained_on = noted_corpus(model.run)
    # A run on windows that were drawn from a corpus reads its tokens.
    if trained_on is not None and trained_on.partition(DRAWN_FROM)[0] != corpus.fingerprint:
        raise InvalidCorpus(
            f"The run {of} was trained on another corpus than {corpus.folder} (fingerprint "
            f"{trained_on[:12]}, not {corpus.fingerprint[:12]}); give that one."
        )
    own = None if model.folder is None else model.folder / TOKENIZER
    if own is not None and own.is_file():
        found = load_tokenizer(own).get_vocab(with_added_tokens=True)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if found != vocabulary:
            raise InvalidCorpus(
                f"{own} has other tokens than the corpus's tokenizer ({len(found):,}, not "
                f"{len(vocabulary):,}, or under other ids); give a corpus that it made."
            )


def compress_model(model: Model, folder: Path, compressed: Compressed) -> None:
    """Write a model that reads the compressed tokenizer, and this with it, to a new folder.

    Raises AlreadyExists where the folder holds something, and NotWritten.
    """

    def write(aside: Path) -> None:
        for file in model.files:
            name = WEIGHTS if model.run is not None else file.name
            _compress_file(file, aside / name, compressed.kept_ids, model.run)
        if model.run is None and model.folder is not None:
            _write_settings(model.folder, aside, compressed)
        compressed.tokenizer.save(str(aside / TOKENIZER))

    write_folder(folder, write)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / INDEX).is_file():
        places = read_json(path / INDEX).get("weight_map")
        if not isinstance(places, dict) or any(Path(str(f)).name != f for f in places.values()):
            raise TruncatedFile(f"{path / INDEX} names no files of tensors; fetch it again.")
        return [path / file for file in sorted(set(places.values()))]
    if (path / WHOLE).is_file():
        return [path / WHOLE]
    raise MissingFile(
        f"There is neither {WEIGHTS} nor {WHOLE} in {path}; give a finished run's folder, a file "
        "of weights, or a Hugging Face folder with safetensors."
    )


def _tables(header: Header) -> dict[str, int]:
    """Rows of the tables that have one a token."""
    return {n: header.tensors[n].shape[0] for n in TABLES if n in header.tensors}


def _check_rows(source: Path, tables: Mapping[str, int], needed: int) -> None:
    short = {name: rows for name, rows in tables.items() if rows < needed}
    for name, rows in short.items():
        raise InvalidRecipe(
            f"{name} in {source} has {rows:,} rows, but the kept tokens reach to row {needed:,}; "
            "give the weights of this tokenizer's model."
        )


def _write_settings(source: Path, folder: Path, compressed: Compressed) -> None:
    """A Hugging Face folder's JSON, with the new sizes and ids."""
    new = {old: number for number, old in enumerate(compressed.kept_ids.tolist())}
    config = _with_ids(read_json(source / CONFIG), new)
    write_json(folder / CONFIG, {**config, "vocab_size": len(new)})
    for name in SETTINGS:
        if (source / name).is_file():
            write_json(folder / name, _with_ids(read_json(source / name), new))
    if (source / INDEX).is_file():
        write_json(folder / INDEX, _index(source, folder))


def _with_ids(value: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Settings whose entries `..._token_id` and decoder of added tokens have the new ids.

    What names a token that is gone is null, or left out of a list.
    """
    made = dict(value)
    for name, old in value.items():
        if name.endswith("_token_id"):
            many = isinstance(old, list)
            made[name] = [new[i] for i in old if i in new] if many else new.get(old)
    if isinstance(value.get("added_tokens_decoder"), dict):
        old_entries = value["added_tokens_decoder"].items()
        made["added_tokens_decoder"] = {
            str(new[int(i)]): entry for i, entry in old_entries if int(i) in new
        }
    return made


def _index(source: Path, folder: Path) -> dict[str, Any]:
    index = read_json(source / INDEX)
    files = sorted(set(index["weight_map"].values()))
    total = sum(
        tensor.end - tensor.begin
        for file in files
        for tensor in read_header(folder / file).tensors.values()
    )
    return {**index, "metadata": {**index.get("metadata", {}), "total_size": total}}
