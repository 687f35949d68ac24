"""Stage 1: entropy of every position, and anchors."""
