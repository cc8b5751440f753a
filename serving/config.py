"""The service's configuration: the section [serving], and the additions of the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from features.online_store import StoreSettings
from serving.settings import ServingSettings


class ServiceConfig(ServingSettings):
    """The section [serving], the paths and addresses of the project, and values without a setting.

    Plain values, so that they can be sent to a replica on another machine.
    """

    port: int = Field(default=8000, ge=1, le=65_535)
    """The port to listen on: a free one has been found for 0."""
    repo: str = "feature_repo"
    """Folder with the definitions of streams and views."""
    home: str = ""
    """The project's folder .headrace, with the status of a stream on this machine; empty for none."""
    store: StoreSettings = StoreSettings()
    """Where the features of users and items are read."""
    clock: Literal["wall", "stream"] = "wall"
    """What now is: the wall's time, or the newest event of a stream that is replayed with its times kept."""
    recommender_names: dict[str, str] = Field(default={})
    """Names of the section [training] that count over those of the default recommender's definition."""
    session_ttl_s: float = Field(default=1800, gt=0)
    """How long a session is remembered after its last event."""
    pending_ttl_s: float = Field(default=300, gt=0)
    """How long an accepted event waits for the stream at most; one that comes later than that counts from then on."""
    item_refresh_s: float = Field(default=2.0, gt=0)
    """Seconds between two readings of all item features, where the stream does not tell which have changed."""
    tracking_uri: str = "sqlite:///mlruns/mlflow.db"
    """MLflow's registry of models; empty for none."""
    model_sources: tuple[str, ...] = ()
    """Folders and prefixes of addresses from which models may be fetched, beside the registry's own."""
    model_alias: str = "champion"
    """The alias that says which version serves."""
    model_poll_s: float = Field(default=5.0, gt=0)
    """Seconds between two looks at the alias."""
    kept_model: str = ""
    """A folder of this machine where the model that serves is copied to, for a start without the registry; empty for
    none. Recommenders beside the default one have folders of their own beside it."""
    bootstrap_servers: str = ""
    """Kafka's address, for POST /v1/events; empty for none."""
    kafka_client: dict[str, str | int | float | bool] = Field(default={})
    """More librdkafka options of the producer, such as those of security."""
    schema_registry: str = ""
    """The address of a Schema Registry, for events of Avro streams; empty for none."""
    registry_client: dict[str, str | int | float | bool] = Field(default={})
    """More options of the registry's client."""
    acknowledge_within_s: float = Field(default=5.0, gt=0)
    """How long POST /v1/events waits for Kafka's acknowledgement."""
    own_topics: tuple[str, ...] = ("scores", "alerts")
    """The topics of what the stream sends: no stream of them can be posted to by default."""
    events_stream: str | None = None
    """The stream that an event belongs to when the request does not say; the default recommender's unless given."""
    threads: int = Field(default=4, ge=1)
    """How many requests that take long are worked on at once; others are answered in batches, one after the other."""
    max_waiting: int = Field(default=256, ge=1)
    """How many may wait; one more, or one that would wait for most of its deadline, is refused at once with 429."""
    run_folder: str = ""
    """A folder that the replicas of this run share, so that /metrics of each has the counts of all; empty for none."""
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """A larger body of POST /v1/events is refused; of other routes, one of more than 256 KiB."""
