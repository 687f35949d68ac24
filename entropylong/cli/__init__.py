"""The command line: one module a group of commands, `app` puts them together."""

from entropylong.cli.app import main

__all__ = ["main"]
