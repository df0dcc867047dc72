"""chatd: a chat daemon on Trio."""

__version__ = "0.1.0"
