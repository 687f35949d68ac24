"""Schemas, the store (the one port to Delta), the artifacts registry."""
