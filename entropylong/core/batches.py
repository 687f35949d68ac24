"""How much one commit takes. Pure."""

from __future__ import annotations

# Of its input, for each core that is at work: a few tasks of a size that storage likes.
CORE_BATCH_BYTES = 64 << 20
# A model takes more than that many times as long for a byte as all else does.
MODEL_PART = 16
# Units of roots: each is a commit, and a folder while the stage is at work. Beyond it they hold more than `run.roots_per_unit`.
MOST_UNITS = 4096
# Of a bucket, which one task packs: 200 MB of ids that come in, and seven bytes a token beside them.
BUCKET_TOKENS = 50_000_000
