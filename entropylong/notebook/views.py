"""A workspace in a notebook: what `status`, `inspect` and `report` print, as HTML; on Databricks it is found by widgets.

from entropylong.notebook import open_workspace
w = open_workspace("demo")
w.status()
"""

from __future__ import annotations

import html
import io
import os
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entropylong.errors import NothingToDoError, UsageError, WorkspaceError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from entropylong.config import Config
    from entropylong.pipeline.state import PipelineState

# Columns of what the terminal shows; the widest table of `inspect` has about as many.
WIDTH = 110
_FONT = "font: 12.5px/1.35 ui-monospace, Menlo, Consolas, monospace; white-space: pre; overflow-x: auto"
# Widgets on Databricks: name, default, label. The defaults are those of databricks.yml.
_WIDGETS = (
    ("catalog", "main", "Catalog"),
    ("schema", "entropylong", "Schema of the tables"),
    ("volume", "files", "Volume in it"),
    ("config", "databricks", "Config"),
    ("overrides", "", "Overrides of the run: key=value ..."),
)


class View:
    """What a command prints on a terminal, with its colours: HTML in a notebook, text elsewhere."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def _repr_html_(self) -> str:
        console = self._printed()
        return str(console.export_html(inline_styles=True, code_format=f'<pre style="{_FONT}">{{code}}</pre>'))

    def __repr__(self) -> str:
        return str(self._printed().export_text())

    def _printed(self) -> Any:
        from rich.console import Console

        # A file of its own, and no Jupyter: rich would show it a second time.
        console = Console(
            record=True, file=io.StringIO(), width=WIDTH, highlight=False, force_jupyter=False, color_system="truecolor"
        )
        console.print(self._content)
        return console


class Page:
    """An HTML page that stands alone, in a frame, so that its styles stay its own."""

    def __init__(self, text: str, height: int = 820) -> None:
        self.text, self._height = text, height

    def _repr_html_(self) -> str:
        frame = f'width="100%" height="{self._height}" style="border: 1px solid #ddd"'
        return f'<iframe sandbox="allow-popups" srcdoc="{html.escape(self.text)}" {frame}></iframe>'

    def __repr__(self) -> str:
        return f"an HTML page of {len(self.text):,} characters"

    def save(self, file: str | Path) -> None:
        """Write it."""
        Path(file).write_text(self.text, encoding="utf-8")


@dataclass(frozen=True)
class OpenWorkspace:
    """A workspace under a config. Reads only.

    Attributes:
        state: behind it, for what has no method here.
        config, overrides, input_path: that it was opened with.
    """

    state: PipelineState
    config: str
    overrides: tuple[str, ...]
    input_path: str | None

    def __repr__(self) -> str:
        return f"workspace {self.state.config.workspace}, tables {self.state.config.tables}, config {self.config}"

    def with_(self, *overrides: str) -> OpenWorkspace:
        """The same under further overrides; of another workspace, if workspace=DIR is among them."""
        return open_workspace(self.config, *self.overrides, *overrides, input_path=self.input_path)

    def config_with(self, *overrides: str) -> Config:
        """Its config with further overrides."""
        from entropylong.config import load_config

        return load_config(self.config, [*self.overrides, *overrides], self.input_path)

    def status(self) -> View:
        """`entropylong status`."""
        from entropylong.reporting.status import status_rows, status_view

        return View(status_view(status_rows(self.state), self.state.config.workspace))

    def inspect(self, doc_id: str | None = None, contexts: int = 3) -> View:
        """`entropylong inspect` of a root; of none, of the packed one with the most dependencies.

        Raises:
            UsageError: no such root.
        """
        from entropylong.pipeline.metrics.compute import best_root
        from entropylong.reporting.inspect import inspect_root

        root = doc_id or best_root(self.state)
        if root is None:
            raise UsageError("inspect: nothing is packed here, so give the id of a root")
        return View(inspect_root(self.state, root, contexts))

    def report(self) -> Page:
        """The page that `entropylong report` writes.

        Raises:
            NothingToDoError: nothing is packed under this config.
        """
        from entropylong.reporting.report.write import report_html

        return Page(report_html(self.state))


def open_workspace(config: str, *overrides: str, input_path: str | None = None) -> OpenWorkspace:
    """Open what a run left, with the arguments of that run.

    A relative workspace is looked for in this folder and those above, as a notebook seldom runs where the command did.

    Args:
        config: a file, or the name of a shipped one.
        overrides: `key.sub=value`.
        input_path: as `--input`.

    Raises:
        WorkspaceError: nothing ran there.
        EntropyLongError: as of any command, in one line.
    """
    from entropylong.config import load_config
    from entropylong.pipeline.open import open_state

    workspace = load_config(config, overrides, input_path).workspace
    folder = next((f / workspace for f in (Path.cwd(), *Path.cwd().parents) if (f / workspace / "workspace.json").is_file()), None)
    if folder is None:
        words = ["--config", config, *(["--input", input_path] if input_path else []), *overrides]
        raise WorkspaceError(
            f"no workspace at {workspace}: nothing ran there; run `entropylong run {shlex.join(words)}`, or name another one: on "
            "Databricks by the widgets, elsewhere by ENTROPYLONG_WORKSPACE"
        )
    all_overrides = (*overrides, f"workspace={folder}")
    with warnings.catch_warnings():
        # Where Jupyter has no widgets a library says so, in red, of progress bars that nobody asked for.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return OpenWorkspace(open_state(config, all_overrides, input_path), config, all_overrides, input_path)


def open_here(config: str = "demo") -> OpenWorkspace:
    """The workspace that the notebook is about.

    On Databricks widgets name it. Elsewhere it is the one of `config`, unless these variables of the environment say otherwise:
    ENTROPYLONG_CONFIG, ENTROPYLONG_WORKSPACE, ENTROPYLONG_INPUT and ENTROPYLONG_OVERRIDES.
    """
    config, overrides, input_path = arguments(config)
    return open_workspace(config, *overrides, input_path=input_path)


def open_pair(config: str = "demo", other: str = "") -> tuple[OpenWorkspace, OpenWorkspace]:
    """That workspace, and another one or the same under other settings.

    Args:
        config: as of `open_here`.
        other: overrides by which the second differs, as one writes them on the command line, unless the widget `other` on
            Databricks, or ENTROPYLONG_OTHER elsewhere, says otherwise.
    """
    dbutils = _dbutils()
    words = (
        _widget(dbutils.widgets, "other", other, "Second: overrides") if dbutils else os.environ.get("ENTROPYLONG_OTHER") or other
    )
    if not words:
        raise UsageError("nothing to compare with: name the overrides by which the second differs, like accept.epsilon=0.3")
    first = open_here(config)
    return first, first.with_(*_split(words))


def arguments(config: str = "demo") -> tuple[str, list[str], str | None]:
    """Config, overrides and input of the notebook's workspace: by widgets where there are any, else by the environment."""
    dbutils = _dbutils()
    if dbutils is not None:
        return _by_widgets(dbutils.widgets)
    chosen = os.environ.get("ENTROPYLONG_CONFIG") or config
    overrides = _split(os.environ.get("ENTROPYLONG_OVERRIDES", ""))
    if workspace := os.environ.get("ENTROPYLONG_WORKSPACE"):
        overrides.append(f"workspace={workspace}")
    return chosen, overrides, os.environ.get("ENTROPYLONG_INPUT") or None


def _by_widgets(widgets: Any) -> tuple[str, list[str], str | None]:
    """As the bundle's jobs have it: tables in a schema, all else in a volume of it."""
    values = {name: _widget(widgets, name, default, label) for name, default, label in _WIDGETS}
    if empty := [name for name in ("catalog", "schema", "volume", "config") if not values[name]]:
        raise UsageError(f"widget {empty[0]} is empty; fill it in above and run the cell again")
    places = [
        f"tables={values['catalog']}.{values['schema']}",
        f"workspace=/Volumes/{values['catalog']}/{values['schema']}/{values['volume']}",
    ]
    return values["config"], [*places, *_split(values["overrides"])], None


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UsageError(f"overrides {words!r}: {error}") from None


def _widget(widgets: Any, name: str, default: str, label: str) -> str:
    widgets.text(name, default, label)
    return str(widgets.get(name)).strip()


def _dbutils() -> Any:
    """What Databricks puts among the names of a notebook; None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return None if shell is None else shell.user_ns.get("dbutils")


def not_yet(what: str) -> NothingToDoError:
    """What to raise where a run has left nothing to look at."""
    return NothingToDoError(f"{what} under this config yet; run: entropylong run, with the same arguments")
