"""Talking to the Hub."""

from .provenance import tokenizer_fingerprint
from .repositories import CodebookInfo, Source, list_codebooks
from .requests import HubError

__all__ = ["CodebookInfo", "HubError", "Source", "list_codebooks", "tokenizer_fingerprint"]
