"""The embedded demo corpus: docstrings of installed packages, and the Python language reference. Pure Python.

Docstrings are read with `ast`; nothing is imported or run. Real text with real cross-references and near-duplicates.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

from entropylong.config.sources import SourceKind
from entropylong.corpus.sources.base import Raw, Unit, UnitSource
from entropylong.errors import SourceError

LEAST_CHARS = 500
LANGUAGE_REFERENCE = "pydoc_data.topics"


class Demo(UnitSource):
    """Docstrings of the modules that a source's path names, with commas between them."""

    kind = SourceKind.DEMO

    def list_units(self, source: str, path: str, unit_bytes: int) -> list[Unit]:
        """Make each module a unit, which changes with the size of its files."""
        units = []
        for module in filter(None, map(str.strip, path.split(","))):
            size = sum(file.stat().st_size for file in module_files(module))
            units.append(Unit(source, self.kind, module, f"{module}@{size}", size))
        return units

    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Read the module's docstrings."""
        yield from demo_documents(unit.path)


def demo_documents(module: str) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of a package's or module's docstrings of at least 500 characters, or of the language reference."""
    for path in sorted(module_files(module)):
        relative = _dotted(module, path)
        source = path.read_text(encoding="utf-8", errors="replace")
        pairs = _topics(source) if module == LANGUAGE_REFERENCE else _docstrings(source)
        for name, text in pairs:
            if len(text) >= LEAST_CHARS:
                yield f"{relative}.{name}" if name else relative, text


def module_files(module: str) -> list[Path]:
    """The source files of a package (its own tests left out) or of one module, found without importing it."""
    root, *rest = module.split(".")
    spec = importlib.util.find_spec(root)
    if spec is None or spec.origin is None:
        raise SourceError(f"demo corpus: the package {root} is not installed")
    base = Path(spec.origin).parent.joinpath(*rest)
    if base.is_dir():
        return [p for p in base.rglob("*.py") if "tests" not in p.parts]
    if base.with_suffix(".py").is_file():
        return [base.with_suffix(".py")]
    raise SourceError(f"demo corpus: no module {module} in the installed package {root}")


def _dotted(module: str, path: Path) -> str:
    parts = path.with_suffix("").parts
    root = module.split(".")[0]
    start = len(parts) - 1 - parts[::-1].index(root)
    dotted = parts[start:]
    return ".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted)


def _docstrings(source: str) -> Iterator[tuple[str, str]]:
    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                if text := ast.get_docstring(child):
                    yield name, text
                yield from visit(child, f"{name}.")

    tree = ast.parse(source)
    if text := ast.get_docstring(tree):
        yield "", text
    yield from visit(tree, "")


def _topics(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), inspect.cleandoc(str(value.value))
            return


RECORD = DEMO = Demo()
