"""Stage 4: verified groups into sequences of an exact length."""
