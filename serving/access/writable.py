"""The streams whose events may be posted over HTTP."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from features.definitions import SERVED_FIELDS, ChosenRecommenders, FeatureRepo, Stream
from features.errors import UsageError


def writable_streams(
    repo: FeatureRepo, chosen: ChosenRecommenders, named: Sequence[str] | None, own_topics: Collection[str] = ()
) -> frozenset[str]:
    """The names of the streams that HTTP may write: those that the settings name, else those of activity.

    Activity is what recommenders learn from and event models judge; in a repo with neither, what views read. Served
    logs, labels, catalogues and decisions are none, be they another definition's activity.

    Args:
        named: the setting; None for the default.
        own_topics: where the stream sends scores and alerts.

    Raises:
        UsageError: a name in the settings is no stream.
    """
    if named is not None:
        unknown = [name for name in named if name not in repo.streams]
        if unknown:
            required = f"names of streams: {', '.join(repo.streams)}"
            raise UsageError("serving.writable_streams", required, repr(unknown[0]))
        return frozenset(named)
    recommenders, models = [*repo.recommenders.values(), *chosen.by_name.values()], list(repo.models.values())
    activity = {one.stream.name for one in recommenders} | {model.stream.name for model in models}
    if not recommenders and not models:
        activity = {stream.name for view in repo.views.values() for stream in view.streams}
    told = {model.labels.name for model in models if model.labels is not None}
    told |= {model.scored.name for model in models if model.scored is not None}
    told |= {one.served.name for one in recommenders if one.served is not None}
    told |= {stream.name for one in recommenders if one.catalogue is not None for stream in one.catalogue.streams}
    told |= {stream.name for stream in repo.streams.values() if _is_ours(stream, own_topics)}
    return frozenset(activity - told)


def _is_ours(stream: Stream, own_topics: Collection[str]) -> bool:
    """True for a served log, and for a stream of what the stream sends."""
    return stream.fields.keys() >= SERVED_FIELDS.keys() or any(topic in own_topics for topic in stream.topics)
