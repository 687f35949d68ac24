"""Plain arrays in files with a manifest: written whole or not at all, copied once a node, memory-mapped. Pure numpy."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.errors import ArrayFileError
from entropylong.utils.hashing import file_sha256
from entropylong.utils.locks import locked

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Contents:
    """What arrays are of, for those who must make them anew.

    Attributes:
        error: Raised where a file is damaged.
        again: What makes the files anew once their folder is removed.
    """

    error: type[ArrayFileError]
    again: str

    def damaged(self, folder: Path, message: str) -> ArrayFileError:
        """Make the error of a damaged file, with what to do."""
        return self.error(f"{message}; remove {folder} and {self.again}")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """One array, whole or not at all."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as out:
        np.save(out, array, allow_pickle=False)
    aside.replace(path)


def read_manifest(directory: Path, contents: Contents) -> dict[str, Any]:
    """Read the manifest of arrays.

    Args:
        directory: Folder of the arrays.
        contents: What they are of.

    Raises:
        ArrayFileError: It is missing, not JSON, or names no files.
    """
    try:
        manifest = dict(json.loads((directory / MANIFEST).read_text()))
        if all(isinstance(entry[key], str) for entry in manifest["files"] for key in ("path", "sha256")):
            return manifest
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise contents.damaged(directory, f"{directory}: no readable {MANIFEST}")


def copy_once(source: Path, manifest_sha256: str, target: Path, contents: Contents) -> Path:
    """Copy the files of a manifest to this node's disk and verify them, once, under a lock.

    Args:
        source: Their folder.
        manifest_sha256: Of the manifest in it.
        target: Their folder on this node; it is there only with all of them.
        contents: What they are of.

    Raises:
        ArrayFileError: A file does not match the manifest.
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
        if not (source / MANIFEST).is_file() or file_sha256(source / MANIFEST) != manifest_sha256:
            raise contents.damaged(source, f"{source / MANIFEST}: changed since the run started")
        for entry in read_manifest(source, contents)["files"]:
            copy = building / Path(entry["path"]).name  # never a path out of the folder
            try:
                shutil.copyfile(source / copy.name, copy)
            except FileNotFoundError:
                raise contents.damaged(source, f"{source / copy.name}: is gone") from None
            if file_sha256(copy) != entry["sha256"]:
                raise contents.damaged(source, f"{source / copy.name}: does not match its manifest")
        shutil.copyfile(source / MANIFEST, building / MANIFEST)
        building.replace(target)
    return target


def read_array(path: Path, contents: Contents, dtype: Any, *shape: int | None) -> npt.NDArray[Any]:
    """Open a plain array, memory-mapped; its pages are shared by the workers of a node.

    Args:
        path: An .npy file.
        contents: What it is of.
        dtype: That it must have.
        shape: That it must have; None: any length.

    Raises:
        ArrayFileError: It is not such an array, whatever its manifest says of it.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise contents.damaged(path.parent, f"{path}: not a plain array: {' '.join(str(error).split())[:160]}") from None
    fits = array.ndim == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        expected = " x ".join("n" if n is None else str(n) for n in shape)
        raise contents.damaged(path.parent, f"{path}: must hold {expected} numbers of type {np.dtype(dtype)}")
    return array
