"""Upkeep of a workspace: checks, leftovers, compaction, quarantine, and a look at the machine."""
