"""Messages for people: every module logs to a logger of its own name; a command shows them on the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PACKAGE = "entropylong"
QUIET, NORMAL, VERBOSE = logging.WARNING, logging.INFO, logging.DEBUG


class TerminalHandler(logging.Handler):
    """Print a record as one line: what is in progress to stdout, warnings to stderr.

    It prints through `sys.stdout` as it is at that moment: while a progress bar is live, rich has put itself there.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(self.format(record), file=stream, flush=True)


class CallbackHandler(logging.Handler):
    """Hand the message of each record to a function."""

    def __init__(self, on_message: Callable[[str], None]) -> None:
        super().__init__()
        self._on_message = on_message

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        self._on_message(self.format(record))


def show(level: int = NORMAL) -> None:
    """Show the package's messages of a level and above on the terminal; a second call only changes the level."""
    package = logging.getLogger(PACKAGE)
    handler = next((own for own in package.handlers if isinstance(own, TerminalHandler)), None)
    if handler is None:
        handler = TerminalHandler()
        package.addHandler(handler)
    handler.setFormatter(logging.Formatter("%(message)s" if level > VERBOSE else "%(asctime)s %(name)s: %(message)s"))
    package.setLevel(level)
    # Some hosts (Databricks among them) print the records of the root logger too: nobody wants a line twice.
    package.propagate = False


@contextmanager
def muted(area: str) -> Iterator[None]:
    """Log only warnings of an area of the package, `pipeline` for example, while the body runs it many times."""
    logger = logging.getLogger(f"{PACKAGE}.{area}")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def is_shown() -> bool:
    """Whether progress is shown: everywhere but under `--quiet`."""
    return logging.getLogger(PACKAGE).level < QUIET
