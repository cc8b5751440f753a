"""What no file of the repository may hold, and what its lists must agree on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT, relative


def test_test_folders_cannot_hide_a_package():
    """A tests/features/ would be what `import features` finds; an __init__.py makes a folder importable."""
    assert [relative(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
    assert [folder for folder in PACKAGES if (ROOT / "tests" / folder).exists()] == []


def our_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files are ours")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def lines_matching(pattern: str) -> list[str]:
    found = re.compile(pattern, re.IGNORECASE)
    return [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in our_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if found.search(line)
    ]


def test_no_file_names_a_package_registry():
    """An address pins everybody to the mirror of whoever wrote it."""
    # In pieces, so that this file does not name them either.
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
