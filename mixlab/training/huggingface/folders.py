"""Folders of models: written whole or not at all, and the JSON in them."""

from mixlab.corpora.files import check_free, read_json, write_folder

__all__ = ["check_free", "read_json", "write_folder"]
