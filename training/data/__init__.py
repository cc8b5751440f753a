"""Events of the archive or a file as training data: split by time, sampled if they are too many.

In: tables, files, domain. Out: events, interactions, and labelled examples as of their time.
"""

from training.data.dataset import (
    Domain,
    EventFile,
    Events,
    Interactions,
    coded,
    interactions_by,
    interactions_of,
    joined_events,
    kinds_of,
    read_file,
    read_offline,
)
from training.data.event_sources import ReadEvents, event_source
from training.data.item_attributes import first_known, newest_attributes
from training.data.labelled_events import (
    DAY_MS,
    EventSplit,
    EventTrainingSettings,
    LabelledEvents,
    examples_between,
    read_archive,
    read_event_file,
    require_both_classes,
    split_events,
    streams_of,
)
from training.data.sampling import (
    EventLimit,
    SampledEvents,
    SampleSummary,
    UserSample,
    WholeArchive,
    drawn,
    drawn_of,
    sample_of,
    with_tables,
)
from training.data.split import Moments, Split, arrivals, asked_at, drawn_moments, joined_moments, time_split, visits

__all__ = [
    "EventFile",
    "EventLimit",
    "DAY_MS",
    "Domain",
    "UserSample",
    "EventTrainingSettings",
    "Events",
    "LabelledEvents",
    "Interactions",
    "Moments",
    "EventSplit",
    "SampleSummary",
    "SampledEvents",
    "ReadEvents",
    "Split",
    "WholeArchive",
    "arrivals",
    "asked_at",
    "coded",
    "drawn",
    "drawn_moments",
    "drawn_of",
    "examples_between",
    "first_known",
    "interactions_by",
    "interactions_of",
    "newest_attributes",
    "joined_events",
    "kinds_of",
    "joined_moments",
    "split_events",
    "read_archive",
    "read_event_file",
    "read_file",
    "read_offline",
    "sample_of",
    "event_source",
    "streams_of",
    "time_split",
    "visits",
    "require_both_classes",
    "with_tables",
]
