"""Secrets that are no settings of a file: variables of the environment, and files as container platforms mount them.

A secret file has a variable's name, in either case, in the folder that HEADRACE_SECRETS_DIR names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from features.errors import UsageError

PREFIX = "HEADRACE_"

SECRETS_DIR = "HEADRACE_SECRETS_DIR"


def secret_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Variable → text of its secret file, without a line end after it; empty where no folder is named.

    Raises:
        UsageError: the folder, or a file of ours in it, cannot be read.
    """
    if not environ.get(SECRETS_DIR):
        return {}
    folder = Path(environ[SECRETS_DIR])
    try:
        named = {path.name.upper(): path for path in folder.iterdir() if path.is_file()}
        files = {name: path.read_text("utf-8") for name, path in named.items() if name.startswith(PREFIX)}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "a file that is not UTF-8"
        where = f"the variable {SECRETS_DIR}"
        raise UsageError(where, "a folder of text files", f"'{folder}' ({reason})") from None
    return {name: text.removesuffix("\n") for name, text in files.items()}


def secret(name: str, environ: Mapping[str, str]) -> str:
    """The value of the variable, or else of its secret file; empty without either."""
    return environ[name] if name in environ else secret_files(environ).get(name, "")
