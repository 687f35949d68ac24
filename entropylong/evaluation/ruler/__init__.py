"""RULER (Hsieh et al., 2024): 13 synthetic tasks at any length. Labelled "RULER-compatible": its prompts, our random draws."""
