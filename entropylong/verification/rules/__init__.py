"""Acceptance rules: one file per rule. Its `RECORD` holds all that varies; verdicts, figures, cards and words iterate over them."""

from __future__ import annotations

from typing import get_args

from entropylong.config.schema import RuleName
from entropylong.utils.registry import load_records
from entropylong.verification.rules.base import AcceptanceRule

RULES: dict[str, AcceptanceRule] = load_records(__name__, get_args(RuleName), AcceptanceRule)
