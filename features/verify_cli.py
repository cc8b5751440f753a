"""`headrace features verify`: online against offline, as of the same instant and the same offsets."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from features.errors import UsageError


@click.command()
@click.option("--view", "view_name", metavar="VIEW", help="Only this feature view.")
@click.option("--sample", default=1_000, show_default=True, type=click.IntRange(1), help="Entities of each view.")
@click.option("--all", "everybody", is_flag=True, help="Every entity of both stores.")
@click.option("--as-of", "as_of", metavar="T", help="RFC 3339 or epoch ms; now unless given.")
@click.option("--threshold", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share that may differ.")
@click.option("--seed", type=click.IntRange(0), help="Chooses the entities; a new one unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    view_name: str | None,
    sample: int,
    everybody: bool,
    as_of: str | None,
    threshold: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Compare the online store with the offline store; exit 1 where more than the threshold differs.

    Each row is compared with the events that had been folded when it was read, at the time of its newest event and
    now: a stream that runs, or lags, explains no difference. History that was imported since the rows were made does:
    run 'headrace features rebuild' first.

    \b
    Examples:
      headrace features verify
      headrace features verify --all --json
    """
    from features.feature_reader import wall_clock_ms
    from features.inspection import parsed_time
    from features.online_store.opened import open_rows
    from features.repo import load_repo
    from features.settings import read_settings
    from features.verification import report
    from features.verified_stores import Asked, Verifier

    root = Path.cwd()
    settings = read_settings(root, os.environ)
    repo = load_repo(root / settings.stream.repo)
    if view_name is not None and view_name not in repo.views:
        raise UsageError("--view", f"one of {', '.join(repo.views) or 'no views'}", repr(view_name))
    views = [view for view in repo.views.values() if view_name in (None, view.name)]
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    asked = Asked(None if everybody else sample, wall_clock_ms() if as_of is None else parsed_time(as_of), seed)
    home = root / settings.home
    rows = open_rows(repo.path, home)
    verifier = Verifier(rows, repo, root / settings.offline.path, home, lambda line: click.echo(line, err=True))
    found = report([verifier.verify(view, asked) for view in views], {one.name: len(one.features) for one in views})
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(found)))
    wrong = found["mismatch"] + found["missing"] + found["extra"]
    click.get_current_context().exit(1 if wrong > threshold * found["compared"] else 0)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, view in found["views"].items():
        kinds = " · ".join(f"{view[kind]:,} {kind}" for kind in ("mismatch", "missing", "extra"))
        yield f"{name}: {view['entities']:,} entities · {view['compared']:,} values compared · {kinds}"
        for feature, count in list(view["by_feature"].items())[:5]:
            yield f"    {feature}: {count:,}"
    for one in found["worst"][:10]:
        values = f"{one['online']!r} online, {one['offline']!r} offline, as of {one['as_of']}"
        yield f"  {one['kind']}: {one['view']} {one['entity']} {one['feature']}: {values}"
