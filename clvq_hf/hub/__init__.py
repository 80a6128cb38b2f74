"""Talking to the Hub."""

from .repositories import CodebookInfo, Source, list_codebooks
from .requests import HubError

__all__ = ["CodebookInfo", "HubError", "Source", "list_codebooks"]
