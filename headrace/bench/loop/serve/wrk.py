"""wrk as a load generator: requests from a list, and the number of responses by what they answered."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from features.errors import UsageError
from headrace.client import access_headers
from headrace.loop import LoopError

INSTALL = "Install it: 'apt install wrk' on Debian and Ubuntu, 'brew install wrk' on macOS."

BEYOND_S = 30
"""Seconds after the end of a run within which wrk itself must have ended."""

SCRIPT = """\
local requests, rate = {{}}, {rate}

sent, full, fallbacks, refused, hasty, failed = {first}, 0, 0, 0, 0, 0

function init(args)
  for body in io.lines({bodies}) do
    requests[#requests + 1] = wrk.format("POST", {path}, {{{headers}}}, body)
  end
end

function request()
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

function response(status, headers, body)
  if status == 200 then
    if body:find('"used"%s*:%s*true') then fallbacks = fallbacks + 1 else full = full + 1 end
  elseif status == 429 then
    refused = refused + 1
    if not (headers["retry-after"] or headers["Retry-After"]) then hasty = hasty + 1 end
  else
    failed = failed + 1
  end
end

if rate > 0 then
  local ffi = require("ffi")
  ffi.cdef("typedef struct {{ long seconds, nanoseconds; }} span; int clock_gettime(int clock, span *time);")
  local time, due = ffi.new("span"), nil

  function delay()
    ffi.C.clock_gettime(1, time)
    local now = tonumber(time.seconds) * 1e3 + tonumber(time.nanoseconds) / 1e6
    due = math.max((due or now) + 1e3 / rate, now - 1e3)
    return math.max(due - now, 0)
  end
end

local threads = {{}}

function setup(thread)
  threads[#threads + 1] = thread
end

function done(summary, latency, requests)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  local thread = threads[1]
  io.write(string.format(
    '\\n{{"next": %d, "full": %d, "fallbacks": %d, "refused": %d, "hasty": %d, "failed": %d, "seconds": %f, ' ..
    '"mean_ms": %f, "p50_ms": %f, "p99_ms": %f, "max_ms": %f}}\\n',
    thread:get("sent"), thread:get("full"), thread:get("fallbacks"), thread:get("refused"), thread:get("hasty"),
    thread:get("failed") + lost, summary.duration / 1e6, latency.mean / 1e3,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


@dataclass(frozen=True)
class WrkRun:
    """A run's responses by what they answered, its length, and the times of all responses.

    Args:
        next: the number of the next request.
        full: answers that are no fallback.
        fallbacks: answers with status 200 that are one.
        refused: responses with status 429.
        hasty: those of them without Retry-After.
        failed: responses of any other status, and requests without one.
    """

    next: int
    full: int
    fallbacks: int
    refused: int
    hasty: int
    failed: int
    seconds: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, output: str) -> Self:
        """The run that wrk reports; LoopError where its last line is no report."""
        try:
            return cls(**json.loads(output.strip().splitlines()[-1]))
        except (IndexError, TypeError, ValueError):
            raise LoopError("wrk", "a report in its last line", repr(output[-300:])) from None

    @property
    def per_s(self) -> float:
        """Full answers a second."""
        return self.full / self.seconds


def wrk_path() -> str:
    """The path of wrk; UsageError without one."""
    path = shutil.which("wrk")
    if path is None:
        raise UsageError("bench serve", "wrk, a load generator", "no such program on the PATH", INSTALL)
    return path


@dataclass
class Load:
    """Requests to one address, each with the next of its bodies; runs go on where the last one ended.

    Args:
        address: such as http://127.0.0.1:8000.
        folder: for the script and the bodies.
    """

    address: str
    folder: Path
    sent: int = 0

    def run(
        self, path: str, bodies: Sequence[Mapping[str, Any]], clients: int, seconds: float, rate: float = 0.0
    ) -> WrkRun:
        """The responses to requests of this many connections for so long.

        Args:
            bodies: taken in turn, from the first again after the last.
            rate: requests a second, sent when they are due; 0 for the next one of a connection at each response.
        """
        lines, script = self.folder / "bodies.jsonl", self.folder / "load.lua"
        lines.write_text("".join(f"{json.dumps(body)}\n" for body in bodies), encoding="utf-8")
        quoted = {"bodies": json.dumps(str(lines)), "path": json.dumps(path)}
        headers = {"content-type": "application/json", **access_headers()}
        quoted["headers"] = ", ".join(f"[{json.dumps(name)}] = {json.dumps(text)}" for name, text in headers.items())
        script.write_text(SCRIPT.format(first=self.sent % len(bodies), rate=rate, **quoted), encoding="utf-8")
        length = ["-t1", f"-c{clients}", f"-d{max(round(seconds), 1)}s", "--timeout", "10s"]
        command = [wrk_path(), *length, "-s", str(script), self.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + BEYOND_S, check=False)
        if done.returncode:
            raise LoopError("wrk", "exit 0", f"{done.returncode}: {(done.stderr or done.stdout).strip()}")
        made = WrkRun.of(done.stdout)
        self.sent = made.next
        return made


def figures_of_runs(runs: Sequence[WrkRun]) -> dict[str, Any]:
    """Medians of the runs' rates and times, sums of their counts, and the lowest and highest rate and p99."""
    names = ("p50_ms", "p99_ms", "mean_ms")
    medians = {name: round(statistics.median(getattr(run, name) for run in runs), 3) for name in names}
    counts = {name: sum(getattr(run, name) for run in runs) for name in ("full", "fallbacks", "refused", "failed")}
    spread = {
        "runs": len(runs),
        "per_s": [round(extreme(run.per_s for run in runs), 1) for extreme in (min, max)],
        "p99_ms": [round(extreme(run.p99_ms for run in runs), 3) for extreme in (min, max)],
    }
    rate = round(statistics.median(run.per_s for run in runs), 1)
    return {**medians, "per_s": rate, **counts, "spread": spread}
