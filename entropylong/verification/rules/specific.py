"""Our rule: the entropy falls far enough, farther than controls let it fall, and the true token becomes likelier."""

from __future__ import annotations

from entropylong.verification.rules.base import COPY, EXCESS, GAIN, NLL, AcceptanceRule

RECORD = AcceptanceRule(
    name="specific",
    conditions=(GAIN, EXCESS, NLL, COPY),
    title="our rule",
    about="ours: entropy, controls and the true token",
    shows_bands=True,
)
