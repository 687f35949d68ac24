"""What the sections of the configuration are made of: their base class, types that they share, and the forms of names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

OPERATIONAL = "operational"
Operational = Field(json_schema_extra={OPERATIONAL: True})
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
NAME = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
# Names as catalogs have them; they are quoted wherever SQL sees them, so a hyphen is no minus.
_PART = "[A-Za-z0-9_][A-Za-z0-9_-]*"
CATALOG_SCHEMA = re.compile(rf"^{_PART}\.{_PART}$")
TABLE = re.compile(rf"^{_PART}(\.{_PART}){{0,2}}$")


class Section(BaseModel):
    """A group of keys. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
