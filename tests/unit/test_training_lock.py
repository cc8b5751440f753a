"""One training at a time: in this process, beside another, and after another was killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from features.errors import BusyError
from headrace.commands.models.train import training_lock

HOLD = """
import sys
from pathlib import Path
from headrace.commands.models.train import training_lock
with training_lock(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_refused_with_the_process_that_is_at_it(tmp_path):
    with training_lock(tmp_path), pytest.raises(BusyError, match=str(os.getpid())), training_lock(tmp_path):
        pass
    with training_lock(tmp_path):
        pass


def test_a_training_that_was_killed_does_not_keep_the_next_one_out(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(BusyError, match=str(other.pid)), training_lock(tmp_path):
            pass
        other.kill()
    with training_lock(tmp_path):
        pass
