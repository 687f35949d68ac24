"""Plain arrays in files with a manifest: written whole or not at all, copied once a node, memory-mapped. Pure numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.errors import IndexFileError
from entropylong.utils.hashing import file_sha256
from entropylong.utils.locks import locked

MANIFEST = "manifest.json"


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """One array, whole or not at all."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as out:
        np.save(out, array, allow_pickle=False)
    aside.replace(path)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        IndexFileError: it is missing or not JSON.
    """
    try:
        return dict(json.loads((directory / MANIFEST).read_text()))
    except (OSError, ValueError):
        raise IndexFileError(f"{directory}: no readable {MANIFEST}; run `entropylong run index` to build it again") from None


def copy_once(source: Path, manifest_sha256: str, target: Path, again: str) -> Path:
    """The files of a manifest on this node's disk, copied and verified once under a lock.

    Args:
        source: their folder.
        manifest_sha256: of the manifest in it.
        target: their folder on this node; it is there only with all of them.
        again: what makes them anew once `source` is removed.

    Raises:
        IndexFileError: a file does not match the manifest.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"{target}.lock"):
        if target.is_dir():
            return target
        building = Path(f"{target}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        if file_sha256(source / MANIFEST) != manifest_sha256:
            raise IndexFileError(f"{source / MANIFEST}: changed since the run started; remove {source} and {again}")
        for entry in read_manifest(source)["files"]:
            copy = building / Path(entry["path"]).name  # never a path out of the folder
            try:
                shutil.copyfile(source / copy.name, copy)
            except FileNotFoundError:
                raise IndexFileError(f"{source / copy.name}: is gone; remove {source} and {again}") from None
            if file_sha256(copy) != entry["sha256"]:
                raise IndexFileError(f"{source / copy.name}: does not match its manifest; remove {source} and {again}")
        shutil.copyfile(source / MANIFEST, building / MANIFEST)
        building.replace(target)
    return target


def read_array(path: Path, dtype: Any, *shape: int | None) -> npt.NDArray[Any]:
    """A plain array, memory-mapped; its pages are shared by the workers of a node.

    Args:
        path: an .npy file.
        dtype: that it must have.
        shape: that it must have; None: any length.

    Raises:
        IndexFileError: it is not such an array, whatever its manifest says of it.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise IndexFileError(f"{path}: not a plain array: {' '.join(str(error).split())[:160]}") from None
    fits = array.ndim == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = " x ".join("n" if n is None else str(n) for n in shape)
        raise IndexFileError(f"{path}: must hold {wanted} numbers of type {np.dtype(dtype)}; build the index again")
    return array
