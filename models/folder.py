"""The folder of an artefact of any kind: written whole or not at all, verified by its manifest."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from features.definitions import FeatureView
from features.errors import ArtefactError

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """The digest and size of a file of the artefact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    """Hex digest of its bytes."""
    size: int
    """Bytes."""


def write_folder(
    directory: Path, fill: Callable[[Path], object], manifest: Callable[[dict[str, FileEntry]], BaseModel]
) -> str:
    """A new folder holds what ``fill`` put there and the manifest of that; returns the hex SHA-256 of manifest.json.

    Raises ArtefactError when the folder exists already.
    """
    if directory.exists():
        raise ArtefactError(f"artefact '{directory}'", "a folder that does not exist yet", "an existing folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    parts = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        fill(parts)
        text = manifest({path.name: _entry(path) for path in sorted(parts.iterdir())}).model_dump_json(indent=1)
        (parts / MANIFEST).write_bytes(text.encode())
        parts.chmod(0o755)
        parts.rename(directory)
    except BaseException:
        shutil.rmtree(parts, ignore_errors=True)
        raise
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_text(path: Path, digest: str | None) -> bytes:
    """The manifest's bytes; ArtefactError unless they have this hex SHA-256 (None for any)."""
    text = _bytes(path)
    if digest is not None and hashlib.sha256(text).hexdigest() != digest:
        got = hashlib.sha256(text).hexdigest()
        raise ArtefactError(f"artefact file '{path}'", f"SHA-256 {digest}", got, "Train anew.")
    return text


def check_files(directory: Path, files: Mapping[str, FileEntry]) -> None:
    """Passes when every file is as the manifest names it; ArtefactError names the first that is not."""
    for name, entry in files.items():
        if _entry(directory / name) != entry:
            required = f"the {entry.size} bytes that the manifest names"
            raise ArtefactError(f"artefact file '{directory / name}'", required, "others", "Train anew.")


def _entry(path: Path) -> FileEntry:
    content = _bytes(path)
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"artefact file '{path}'", "a file that can be read", str(error), "Train anew.") from error


class ViewInputs(BaseModel):
    """The features of a view that a model takes, in order, and the view's schema hash at training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: str
    """The feature view's name."""
    schema_hash: str
    """16 hex digits of FeatureView.schema_hash at training."""
    names: tuple[str, ...]
    """Numeric features, in the order of a row."""

    @classmethod
    def of(cls, view: FeatureView, names: Iterable[str]) -> ViewInputs:
        """These features of the view as it is defined now."""
        return cls(view=view.name, schema_hash=f"{view.schema_hash:016x}", names=tuple(names))
