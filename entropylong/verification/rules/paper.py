"""The rule of the paper: the entropy falls far enough."""

from __future__ import annotations

from entropylong.verification.rules.base import COPY, GAIN, AcceptanceRule

RECORD = AcceptanceRule(
    name="paper",
    conditions=(GAIN, COPY),
    title="paper's rule",
    about="the paper's: entropy alone",
)
