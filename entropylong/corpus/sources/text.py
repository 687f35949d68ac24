"""Text files: a file is a document, its path the id. Needs pyarrow, no Spark."""

from __future__ import annotations

from collections.abc import Iterator

from entropylong.config.sources import SOURCE_ENDINGS, SourceKind
from entropylong.corpus.sources.base import Extent, Raw, Row, Unit
from entropylong.corpus.sources.files import FileSource, filesystem


class Text(FileSource):
    """Whole files of text."""

    kind = SourceKind.TEXT
    endings = SOURCE_ENDINGS[SourceKind.TEXT]
    one_document_a_file = True

    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Read the file."""
        with filesystem(root)[0].open_input_stream(unit.path, compression=None) as handle:
            yield unit.name.rpartition("@")[0], handle.read()

    def beginning(self, unit: Unit, root: str, extent: Extent) -> tuple[list[Row], float]:
        """Read the file, or its first lines where it is large."""
        with filesystem(root)[0].open_input_stream(unit.path, compression=None) as handle:
            block = handle.read(extent.n_bytes)
        # What is longer ends at a line, not within a character.
        whole = (block.rpartition(b"\n")[0] or block) if len(block) == extent.n_bytes else block
        return [{extent.text: whole}], float(len(whole))


RECORD = Text()
