"""Decoders as folders that Hugging Face transformers loads: export, and import.

    model.safetensors           weights; more than `shard_bytes` of them in numbered files
                                under model.safetensors.index.json
    config.json                 a LlamaConfig
    generation_config.json      generation stops at the end-of-text token
    tokenizer.json              the corpus's tokenizer, which adds nothing before or behind a text
    tokenizer_config.json

Two of our matrices are several of theirs, one below the other: queries, keys and values, gate
and up. Rotation is the half-split form in both, so no row moves, and a trip there and back
gives the same bits.

A text is encoded as the corpus was: no begin or end of text is added, whatever the tokenizer's
own file asks for, and a text that spells the end-of-text token out is plain characters.
Sources: modeling_llama.py and configuration_llama.py of transformers 5 (4.46 loads the folders
too); facts on drifting begin-of-text defaults: jzhang38/TinyLlama, issues 40, 76 and 116.
Limits: Llama without biases and with plain rotary positions. Corpora encode texts of more than
131,072 characters in pieces, so a token at such a border may differ.
"""

from mixlab.training.huggingface.exporting import Format, export_huggingface
from mixlab.training.huggingface.importing import HuggingFaceModel, import_huggingface
from mixlab.training.huggingface.trained import TrainedModel, read_trained, save_imported

__all__ = [
    "Format",
    "HuggingFaceModel",
    "TrainedModel",
    "export_huggingface",
    "import_huggingface",
    "read_trained",
    "save_imported",
]
