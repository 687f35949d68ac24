"""What a stranger could plant in a config, a model's folder or a workspace: each refused by name, and nothing of it runs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from entropylong.config import load_config
from entropylong.errors import ConfigError, EntropyLongError, ModelError, WorkspaceError
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.storage.workspace import Workspace
from tests.conftest import CONF


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("table", ["../../etc/passwd", "main.docs.`x`", "delta.`/etc`", "a.b.c.d", "main.docs.x; DROP TABLE y"])
def test_table_names_are_names(table: str) -> None:
    with pytest.raises(ConfigError, match="is not a table name like"):
        load_config(CONF / "base.yaml", ["sources.docs.kind=delta", f"sources.docs.table={table}"])


@pytest.mark.parametrize("name", ["..", "../up", "Docs", "a-b"])
def test_source_names_are_names(name: str) -> None:
    config = {"sources": {name: {"kind": "jsonl", "path": "x.jsonl"}}}
    with pytest.raises(ConfigError):
        load_config(CONF / "base.yaml", [f"sources={json.dumps(config['sources'])}"])


def test_a_model_with_code_of_its_own(tiny_lm: Path, tmp_path: Path) -> None:
    """Its config names a class in a file beside it; the file is never imported."""
    folder, proof = Path(shutil.copytree(tiny_lm, tmp_path / "model")), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    (folder / "modeling_own.py").write_text(f"import pathlib; pathlib.Path({str(proof)!r}).touch()\nOwnConfig = OwnModel = dict\n")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
    with pytest.raises(ModelError, match="needs code of its own"):
        prepare(ModelSpec(str(folder)), tmp_path / "cache")
    assert not proof.exists()


def _module(folder: Path, **changes: str) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[-1] |= changes
    (folder / "modules.json").write_text(json.dumps(listed))


def test_an_encoder_with_code_of_its_own(tiny_encoder: Path, tmp_path: Path) -> None:
    for number, (changes, message) in enumerate(
        [({"type": "subprocess.Popen"}, "names subprocess.Popen"), ({"path": "../../elsewhere"}, "leads out of the model's folder")]
    ):
        folder = Path(shutil.copytree(tiny_encoder, tmp_path / f"encoder-{number}"))
        _module(folder, **changes)
        with pytest.raises(ModelError, match=message):
            prepare(ModelSpec(str(folder)), tmp_path / "cache")


def test_planted_pickles_are_not_read(tiny_encoder: Path, tiny_lm: Path, tmp_path: Path) -> None:
    """In a module of an encoder: refused. Beside safetensors: never opened."""
    proof, planted = tmp_path / "ran", pickle.dumps(Planted(tmp_path / "ran"))
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    (pooling,) = encoder.glob("*_Pooling")
    (pooling / "pytorch_model.bin").write_bytes(planted)
    with pytest.raises(ModelError, match="pickled weights"):
        prepare(ModelSpec(str(encoder)), tmp_path / "cache")
    lm = Path(shutil.copytree(tiny_lm, tmp_path / "lm"))
    (lm / "pytorch_model.bin").write_bytes(planted)
    from entropylong.models.causal_lm import CausalLM

    CausalLM(prepare(ModelSpec(str(lm)), tmp_path / "cache").path, document_start_id=0, device="cpu")
    assert not proof.exists()
    pickle.loads(planted)  # noqa: S301
    assert proof.exists(), "the pickle does what a planted one would"


@pytest.mark.parametrize("inside", ["index", "index/a1b2", "index/a1b2/vectors.npy", "checkpoints/gains", "tables/documents"])
def test_links_out_of_the_workspace(inside: str, tmp_path: Path) -> None:
    workspace, outside = Workspace(str(tmp_path / "workspace")), tmp_path / "outside"
    with workspace.locked():
        pass
    outside.mkdir()
    link = workspace.path / inside
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(WorkspaceError, match="a link out of the workspace"), workspace.locked():
        pass
    link.unlink()
    with workspace.locked():
        pass
    assert issubclass(WorkspaceError, EntropyLongError)


def test_a_workspace_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "workspace").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "index").mkdir()
    with Workspace(str(tmp_path / "workspace")).locked():
        pass
