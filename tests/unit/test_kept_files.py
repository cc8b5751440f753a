"""Files that a long life would add to for ever: logs of the loop's processes, and compiled kernels of old versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from features import compiling
from features.rows import compiled
from headrace import loop

MOST = 50_000
LINES = 40_000
WRITER = f"""
import sys
for number in range({LINES}):
    print("line", number, flush=number % 50 == 0)
    if number % 1_000 == 0:
        sys.stdin.readline()
"""


def test_the_log_of_a_process_that_goes_on_writing_has_a_largest_size(tmp_path):
    """Half a megabyte in all; before, the file had all of it."""
    log = tmp_path / "stream.log"
    with (
        log.open("ab") as file,
        subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=file) as writer,
    ):
        for _ in range(LINES // 1_000):
            loop.keep_short(log, MOST)
            assert writer.stdin is not None
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        writer.stdin.close()
        writer.wait()
    loop.keep_short(log, MOST)
    before = (tmp_path / "stream.log.1").read_bytes()
    assert len(before) <= MOST
    assert log.stat().st_size <= MOST
    told = before + log.read_bytes()
    assert told.splitlines()[-1] == f"line {LINES - 1}".encode()
    assert b"\0" not in told


def test_a_short_log_stays_as_it_is(tmp_path):
    log = tmp_path / "stream.log"
    log.write_bytes(b"ready\n")
    loop.keep_short(log, MOST)
    loop.keep_short(tmp_path / "none.log", MOST)
    assert log.read_bytes() == b"ready\n"
    assert list(tmp_path.iterdir()) == [log]


def test_compiled_kernels_of_old_versions_go(tmp_path):
    """Every upgrade left 1.3 MB beside the source."""
    for age, version in enumerate("edcba"):
        for ending in ("-128.py311.nbi", "-128.py311.1.nbc"):
            for name in ("fold_rows", "read_heads"):
                path = tmp_path / f"fold.{name}_{version * 16}{ending}"
                path.write_bytes(b"code")
                os.utime(path, (1_000 - age, 1_000 - age))
    compiling.forget_versions(tmp_path, "fold_rows", "fold_rows_" + "a" * 16)
    left = sorted(path.name.split("_")[2][0] for path in tmp_path.glob("*fold_rows_*"))
    assert left == ["a", "a", "d", "d", "e", "e"]
    assert len(list(tmp_path.glob("*read_heads_*"))) == 10
    compiling.forget_versions(tmp_path / "none", "fold_rows", "fold_rows_" + "a" * 16)


def test_the_kernels_of_this_version_are_where_their_numba_says():
    """The names that are looked for are those that numba gives its files."""
    compiled.read_heads()
    folder = Path(compiled.read_heads().stats.cache_path)
    names = {path.name for path in folder.glob("*.read_heads_*.nb[ic]")}
    current = compiled.read_heads().py_func.__qualname__
    assert any(name.partition(".")[2].partition("-")[0] == current for name in names)
    assert len({name.partition("-")[0] for name in names}) <= compiling.KEPT_VERSIONS
