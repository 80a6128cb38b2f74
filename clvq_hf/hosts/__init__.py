"""Find, read, edit and resume the model whose concepts are studied."""

from .host import UnsupportedHostError, load_host
from .readout import Readout
from .residual_stream import ResidualStream
from .resume import resume
from .runner import HostRunner

__all__ = ["HostRunner", "Readout", "ResidualStream", "UnsupportedHostError", "load_host", "resume"]
