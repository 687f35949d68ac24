"""Screens: a cheaper reading proposes which candidates the exact model shall confirm. Not exact, off by default.

One file per screen, whose `RECORD` holds all that varies. What a screen costs in recall is measured on roots that are read exactly
all the same (`calibration.py`).
"""

from __future__ import annotations

from typing import get_args

from entropylong.config.schema import ScreenName
from entropylong.utils.registry import load_records
from entropylong.verification.screens.base import ScreenRecord

SCREENS: dict[str, ScreenRecord] = load_records(__name__, get_args(ScreenName), ScreenRecord)
