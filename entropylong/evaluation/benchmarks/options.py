"""Options that several benchmarks have."""

from __future__ import annotations

from typing import Annotated

import typer

AnsweringModel = Annotated[
    str | None, typer.Option("--model", help="An id, a folder or wheel:package/path; with --endpoint its name there. [model.name]")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint", help="An OpenAI-compatible server, up to /v1 (vLLM and the like); its key in OPENAI_API_KEY."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", help="With --endpoint: the model's folder or id here: its tokenizer counts, and has the chat template."
    ),
]
Lengths = Annotated[list[int] | None, typer.Option("--length", help="Tokens; give it again for more. [8192 ... 131072]")]
