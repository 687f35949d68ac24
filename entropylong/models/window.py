"""Does a root with a context fit the model's window?"""

from __future__ import annotations

import json
from pathlib import Path

from entropylong.config import Config
from entropylong.errors import ConfigError

# Start token and separator; a separator is a few tokens at most.
SPECIAL_TOKENS = 16


def window_of(model_folder: Path) -> int | None:
    """Tokens that a model was made to read; None where its config states none."""
    window = json.loads((model_folder / "config.json").read_text()).get("max_position_embeddings")
    return window if isinstance(window, int) else None


def check_window(config: Config, model_folder: Path) -> None:
    """Refuse roots.max_tokens + contexts.max_tokens beyond the window in which the model was trained.

    Raises:
        ConfigError: names both keys and what fits.
    """
    window = window_of(model_folder)
    tokens_needed = config.roots.max_tokens + config.contexts.max_tokens + SPECIAL_TOKENS
    if window is not None and tokens_needed > window:
        raise ConfigError(
            f"key 'roots.max_tokens': {config.roots.max_tokens} + contexts.max_tokens {config.contexts.max_tokens} "
            f"+ {SPECIAL_TOKENS} is beyond the window of {config.model.name} ({window}); "
            f"at most {window - config.contexts.max_tokens - SPECIAL_TOKENS} fit"
        )
