"""The names of the stages in order. They are contracts: users type them, jobs and tasks have them. Imports nothing."""

STAGE_NAMES = ("ingest", "chunk", "embed", "index", "score", "anchors", "search", "pairs", "verify", "pack")
# All that measures: up to the gains, from which each recipe packs.
MEASURED = STAGE_NAMES[: STAGE_NAMES.index("pack")]
