"""What a host relies on: the effect of every concept, which of them are suspect, and what becomes of it without."""

from .audit import Auditor
from .result import Audit
from .retest import Retest

__all__ = ["Audit", "Auditor", "Retest"]
