"""Events of the archive or a file as training data: split by time, sampled if they are too many.

In: tables, files, domain. Out: events, interactions, and labelled examples as of their time.
"""

from training.data.bounds import Bound
from training.data.dataset import (
    Domain,
    Events,
    Interactions,
    coded,
    interactions_of,
    joined_events,
    read_file,
    read_offline,
)
from training.data.event_sources import Source, source_of
from training.data.labelled_events import (
    DAY_MS,
    EventTrainingSettings,
    Examples,
    Parts,
    examples_between,
    parts_of,
    read_archive,
    read_event_file,
    streams_of,
    with_both,
)
from training.data.sampling import Drawn, Sample, SampledEvents, WholeArchive, drawn, drawn_of, sample_of, with_tables
from training.data.split import Moments, Split, arrivals, drawn_moments, joined_moments, time_split, visits

__all__ = [
    "Bound",
    "DAY_MS",
    "Domain",
    "Drawn",
    "EventTrainingSettings",
    "Events",
    "Examples",
    "Interactions",
    "Moments",
    "Parts",
    "Sample",
    "SampledEvents",
    "Source",
    "Split",
    "WholeArchive",
    "arrivals",
    "coded",
    "drawn",
    "drawn_moments",
    "drawn_of",
    "examples_between",
    "interactions_of",
    "joined_events",
    "joined_moments",
    "parts_of",
    "read_archive",
    "read_event_file",
    "read_file",
    "read_offline",
    "sample_of",
    "source_of",
    "streams_of",
    "time_split",
    "visits",
    "with_both",
    "with_tables",
]
