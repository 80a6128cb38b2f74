"""What a host relies on: the effect of every concept on every class, and which of them are suspect."""

from .audit import Auditor
from .result import Audit

__all__ = ["Audit", "Auditor"]
