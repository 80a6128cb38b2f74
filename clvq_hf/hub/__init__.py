"""Talking to the Hub: downloading, uploading, listing, and where a model came from."""

from .listing import CodebookInfo, list_codebooks
from .provenance import tokenizer_fingerprint
from .repositories import Source
from .requests import HubError

__all__ = ["CodebookInfo", "HubError", "Source", "list_codebooks", "tokenizer_fingerprint"]
