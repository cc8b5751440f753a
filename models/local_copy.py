"""A copy of the model that served here last, for a start while the registry does not answer."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from features.machine import write_json
from models.folder import MANIFEST
from models.tags import is_signed, signature_of

LAST = "last.json"


@dataclass(frozen=True)
class CopiedVersion:
    """A version that was copied: its number, its manifest's digest, the folder, and whether it may run its own code."""

    version: str
    digest: str
    folder: Path
    trusted: bool = False


def local_copy_in(folder: str) -> LocalCopy | None:
    """The local copy in this folder; None for an empty name."""
    return LocalCopy(Path(folder)) if folder else None


class LocalCopy:
    """A folder of this machine with the model that serves; processes may share it, as each step is one rename.

    Args:
        folder: made at the first copy.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, version: str, digest: str, files: Callable[[], Path], *, trusted: bool) -> None:
        """Copies the artefact's folder for the next start; a full disk leaves the copy before.

        Args:
            files: gives the folder, if there is no copy of it yet.
            trusted: it may run its own code, also when it starts from the copy; signed where there is a key.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / digest / MANIFEST).is_file():
                self._copy(files(), self._folder / digest)
            self._name(version, digest, trusted=trusted)
        except OSError:
            return
        self._drop_others(digest)

    def last(self) -> CopiedVersion | None:
        """The version that was copied last, not verified yet; None without one."""
        try:
            entry = json.loads((self._folder / LAST).read_text(encoding="utf-8"))
            version, digest = str(entry["version"]), str(entry["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A copy of before this was written down was trusted if its model needed it.
        trusted = bool(entry.get("trusted", True)) and is_signed(digest, str(entry.get("signature", "")))
        return CopiedVersion(version, digest, self._folder / digest, trusted)

    def _copy(self, source: Path, target: Path) -> None:
        part = Path(tempfile.mkdtemp(prefix=".copying-", dir=self._folder))
        try:
            shutil.copytree(source, part, dirs_exist_ok=True)
            part.rename(target)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            if not (target / MANIFEST).is_file():  # else another process was quicker
                raise

    def _name(self, version: str, digest: str, *, trusted: bool) -> None:
        signature = signature_of(digest) if trusted else ""
        entry = {"version": version, "digest": digest, "trusted": trusted, "signature": signature}
        write_json(self._folder / LAST, entry)

    def _drop_others(self, digest: str) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name != digest and not path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
