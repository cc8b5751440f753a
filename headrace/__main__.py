"""``python -m headrace``: the command line."""

import sys
from pathlib import Path

# -m puts the current folder before all others: a project's own features/ or models/ folder would be imported for ours.
if sys.path and not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from headrace.cli import main

main()
