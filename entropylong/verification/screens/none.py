"""No screen: every candidate is measured exactly."""

from __future__ import annotations

from entropylong.verification.screens.base import ScreenRecord

RECORD = ScreenRecord(name="none", reading=None, limit=None)
