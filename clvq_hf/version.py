"""The version, in one place: packaging reads it, configs record it."""

__version__ = "0.2.0"
