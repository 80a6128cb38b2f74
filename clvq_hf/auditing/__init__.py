"""What a host relies on, which concepts are suspect, and what becomes of it without some of them."""

from .audit import Auditor
from .result import Audit
from .retest import Retest

__all__ = ["Audit", "Auditor", "Retest"]
