"""Packing a bucket out of Arrow buffers against packing it out of Python lists: CPU seconds, and memory beyond the input.

Both make the same sequences. Each is a process of its own, forked when the input is there, so that its peak is its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import DEMO, argument_parser
from benchmarks.timing import record, say
from entropylong.packing.arrow import USES, batches_of, groups_of
from entropylong.packing.sequences import PackRule, best_fit, pack_groups
from entropylong.utils.hashing import xxhash64

# As the paper's setting has them: tokens of a root, its contexts, tokens of each.
ROOT, CONTEXTS, CHUNK = 2000, 8, 450
RULE = PackRule(131072, "spread", "shuffle", "none", DEMO.seed, "verified", (1,), (2, 3), 0)
# What a bucket's worker gives back: the ids of each sequence by its id, as Arrow.
SCHEMA = pa.schema([("sequence_id", pa.int64()), ("input_ids", pa.list_(pa.int32()))])


def bucket(tokens: int) -> pa.Table:
    """Rows of groups with so many tokens in all, as Spark hands a bucket over."""
    rng, roots = np.random.default_rng(DEMO.seed), max(2, tokens // (ROOT + CONTEXTS * CHUNK))
    chunks = pa.array(np.arange(roots * CONTEXTS))
    ids = [rng.integers(0, 49152, roots * n, np.int32) for n in (ROOT, CONTEXTS * CHUNK)]
    of_root, of_chunk = (
        pa.ListArray.from_arrays(np.arange(0, len(i) + 1, n, np.int32), i) for i, n in zip(ids, (ROOT, CHUNK), strict=True)
    )
    ends = np.arange(0, roots * CONTEXTS + 1, CONTEXTS, np.int32)
    contexts = pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays([chunks, of_chunk], ["chunk_id", "chunk_ids"]))
    none = pa.ListArray.from_arrays(np.zeros(roots + 1, np.int32), contexts.values.slice(0, 0))
    gains = pa.array(rng.random(len(chunks)))
    places = pa.array(rng.integers(0, ROOT, len(chunks), np.int32))
    links = pa.StructArray.from_arrays([chunks, places, gains, gains], ["chunk_id", "position", "gain", "excess_gain"])
    columns = [pa.array([f"root-{n}" for n in range(roots)]), of_root, pa.ListArray.from_arrays(ends, links), contexts, none, none]
    return pa.table(columns, ["root_id", "input_ids", "dependencies", *USES])


def ours(table: pa.Table) -> pa.Table:
    """Slices of the buffers, into arrays of a sequence each."""
    packed = pack_groups(groups_of(table), RULE)
    return pa.Table.from_batches(batches_of(packed, lambda sequence: {"sequence_id": sequence.sequence_id}, SCHEMA), SCHEMA)


def naive(table: pa.Table) -> pa.Table:
    """Rows as Python objects, ids as tuples (to find copies of a text), a list for each sequence."""
    separator, capacity = len(RULE.separator_ids), RULE.length - len(RULE.start_ids)
    groups, first = [], dict[tuple[int, ...], int]()
    for row in table.to_pylist():
        chunks = [(c["chunk_id"], tuple(c["chunk_ids"])) for c in row["contexts"]]
        for number, ids in chunks:
            first[ids] = min(number, first.get(ids, number))
        size = len(row["input_ids"]) + sum(len(ids) + separator for _, ids in chunks)
        groups.append((row["root_id"], tuple(row["input_ids"]), chunks, size))
    groups.sort(key=lambda g: (-g[3], xxhash64(g[0]), g[0]))
    rows = []
    for members in best_fit([g[3] for g in groups], capacity, separator):
        mine = sorted((groups[n] for n in members), key=lambda g: (xxhash64(RULE.seed, g[0]), g[0]))
        contexts = {first[ids]: ids for _, _, chunks, _ in mine for _, ids in chunks}
        shuffled = sorted(contexts, key=lambda c: (xxhash64(RULE.seed, c), c))
        written = list(RULE.start_ids)
        for piece in [*(contexts[c] for c in shuffled), *(ids for _, ids, _, _ in mine)]:
            written += [*(RULE.separator_ids if len(written) > len(RULE.start_ids) else ()), *piece]
        written += [RULE.pad_id] * (RULE.length - len(written))
        name = xxhash64(RULE.seed, RULE.recipe, *(g[0] for g in mine))
        rows.append({"sequence_id": name, "input_ids": np.array(written, np.int32).tolist()})
    return pa.Table.from_pylist(rows, SCHEMA)


def measured(side: Callable[[pa.Table], pa.Table], table: pa.Table) -> tuple[float, int, str]:
    """CPU seconds of one side, bytes of its peak beyond what was there at its start, and a hash of what it made."""
    parent, child = multiprocessing.Pipe()

    def run() -> None:
        before, start = _peak(), time.process_time()
        made = side(table)
        spent, peak = time.process_time() - start, _peak() - before
        child.send((spent, peak, str(xxhash64(*sorted(map(str, made.to_pylist()))))))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    child.close()
    result: tuple[float, int, str] = parent.recv()
    process.join()
    return result


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Both sides, in pairs."""
    parser = argument_parser(__doc__)
    parser.add_argument("--tokens", type=int, help="of the bucket")
    options = parser.parse_args(arguments)
    tokens, pairs = options.tokens or (300_000 if options.small else 16_000_000), 1 if options.small else 3
    table = bucket(tokens)
    results: dict[str, list[Any]] = {"ours": [], "naive": []}
    for number in range(pairs):
        for side in (ours, naive) if number % 2 else (naive, ours):
            results[side.__name__].append(measured(side, table))
        say(f"packing, pair {number + 1} of {pairs}: {results['ours'][-1][0]:.2f} and {results['naive'][-1][0]:.2f} CPU s")
    beyond = {f"bytes_a_token_{name}": round(max(r[1] for r in runs) / tokens, 2) for name, runs in results.items()}
    cpu = ([r[0] for r in results[name]] for name in ("ours", "naive"))
    same = len({r[2] for runs in results.values() for r in runs}) == 1
    record("packing", *cpu, unit="CPU s", tokens=tokens, same_sequences=same, **beyond)


if __name__ == "__main__":
    main()
