"""What a host relies on, and what becomes of it without."""

from .retest import Retest

__all__ = ["Retest"]
