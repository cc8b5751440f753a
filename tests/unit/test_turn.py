"""One training at a time: in this process, beside another, and after another was killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from features.turn import BusyError, turn

HOLD = """
import sys
from pathlib import Path
from features.turn import turn
with turn(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_refused_with_the_process_that_is_at_it(tmp_path):
    with turn(tmp_path), pytest.raises(BusyError, match=str(os.getpid())), turn(tmp_path):
        pass
    with turn(tmp_path):
        pass


def test_a_training_that_was_killed_does_not_keep_the_next_one_out(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(BusyError, match=str(other.pid)), turn(tmp_path):
            pass
        other.kill()
    with turn(tmp_path):
        pass
