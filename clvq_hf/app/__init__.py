"""The live app: type a text, look at its concepts, take one away, and see what the host makes of it.

Gradio is imported on use: it needs `pip install "clvq-hf[app]"`.
"""

from .interface import build_app, launch_app
from .readings import Bar, Continuation, Control, Effect, Reading, Token
from .session import Explorer
from .space import export_space

__all__ = [
    "Bar",
    "Continuation",
    "Control",
    "Effect",
    "Explorer",
    "Reading",
    "Token",
    "build_app",
    "export_space",
    "launch_app",
]
