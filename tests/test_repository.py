"""Contents that no file of the repository may have, lists that must agree, and paths in documents that must exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT, relative


def test_test_folders_cannot_hide_a_package():
    """`import features` would find a folder tests/features/; an __init__.py makes a folder importable."""
    assert [relative(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
    assert [folder for folder in PACKAGES if (ROOT / "tests" / folder).exists()] == []


def our_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to tell its files from generated ones")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def lines_matching(pattern: str) -> list[str]:
    expression = re.compile(pattern, re.IGNORECASE)
    return [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in our_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if expression.search(line)
    ]


def test_no_file_names_a_package_registry():
    """An address would bind all users to the mirror of its author."""
    # Split, so that this file does not contain them either.
    hosts = ["py" + r"pi\.org", "python" + r"hosted\.", r"maven\." + "org", "repo1?" + r"\.maven", "deb" + r"\.debian"]
    hosts += ["registry" + r"\.npmjs", "crates" + r"\.io", "proxy" + r"\.golang", "--(extra-)?index" + "-url"]
    assert lines_matching("|".join(hosts)) == []


def test_no_file_holds_a_path_of_one_machine():
    folders = ["wo" + "rk", "fa" + "rm", "ro" + "ot", "ho" + r"me/\w+", "Us" + r"ers/\w+", "tmp/bash" + "_jobs"]
    assert lines_matching(rf"(?<![\w.$}}~-])/({'|'.join(folders)})/") == []


def test_the_lock_has_exact_versions_and_nothing_else():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_every_direct_requirement_is_locked():
    names = re.findall(r"^([A-Za-z0-9._-]+)", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    locked = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(names) - set(locked) == set()


DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/adr/*.md")
PATH_SUFFIXES = (".py", ".md", ".toml", ".yaml", ".sh")
NOT_IN_THE_TREE = (".headrace/", ".venv/", "mlruns/", "my_repo/")
"""Folders that are made at run time, and the example of README.md."""


def paths_in(text: str) -> list[str]:
    """Paths in backticks that look like files or folders of the repository."""
    top = {path.name for path in ROOT.iterdir() if path.is_dir()}
    paths = [path for path in re.findall(r"`([\w.][\w./-]*/[\w./-]*)`", text) if not path.startswith(NOT_IN_THE_TREE)]
    return [path for path in paths if path.endswith(PATH_SUFFIXES) or path.partition("/")[0] in top]


def test_paths_in_documents_are_recognized():
    text = "`docs/adr`, `old/one.py`, `features/`, `.headrace/x.py`, `GET /v1/items`, `/v1/score`, `a/b`, `cards.py`"
    assert paths_in(text) == ["docs/adr", "old/one.py", "features/"]


def test_every_path_in_a_document_exists():
    documents = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    mentions = [(path, mention) for path in documents for mention in paths_in(path.read_text(encoding="utf-8"))]
    assert [f"{relative(path)}: {mention}" for path, mention in mentions if not (ROOT / mention).exists()] == []
