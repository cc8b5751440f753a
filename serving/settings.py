"""The section [serving] of settings.toml."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ServingSettings(BaseModel):
    """The HTTP service."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    host: str = "127.0.0.1"
    """The address to listen on; beyond this machine, such as 0.0.0.0, only with keys."""
    hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Names by which clients ask for the service, beside those of the loopback and the address: without port. Requests
    with another Host are refused, and those of pages with another Origin."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """The port to listen on; 0 takes a free one."""
    keys: str = ""
    """The file of `headrace keys`, below the project where it is relative; empty for keys.json in the project's home.
    Where there is one, no request is answered without a key but /healthz and /readyz."""
    tenant: str = ""
    """Whose service it is: keys of another tenant are refused. Empty for the project of feature_store.yaml."""
    writable_streams: tuple[str, ...] | None = None
    """The streams that POST /v1/events may write; by default those of recommenders and event models, but for served
    logs, labels and catalogues."""
    deadline_ms: float = Field(default=150, gt=0)
    """The time within which a request is answered, with a fallback where store or model are too slow. A request that
    would wait for most of it is refused at once with 429."""
    served_log_share: float = Field(default=0.1, ge=0, le=1)
    """The share of answers, by their ids, that are logged with their inputs, where the definitions have a
    stream 'served' and Kafka is configured."""
    canary_share: float = Field(default=0.05, ge=0, le=0.5)
    """The share of users that the alias canary answers, where 'headrace models canary' set no other."""
    canary_slower: float = Field(default=1.5, gt=1)
    """A canary stops when its answers take significantly longer, and at the median by more than this factor."""
    shadow_share: float = Field(default=0, ge=0, le=1)
    """The share of requests that the challenger scores too, after the answer; its answers are logged and never sent."""
    read_age_slo_s: float = Field(default=86_400, gt=0)
    """The objective for the age of the newest event of an entity read; /metrics has the share of reads that meet it."""
    replicas: int = Field(default=1, ge=1)
    """Processes that answer; the fewest, if ``most_replicas`` is more."""
    most_replicas: int = Field(default=0, ge=0)
    """The most processes that answer, as many as the load asks for; 0 for always ``replicas``."""
    requests_a_replica: float = Field(default=16, gt=0)
    """Requests in progress, on average, for which there is one process."""
    scale_up_after_s: float = Field(default=10, ge=0)
    """How long there have to be more requests before another process is started."""
    scale_down_after_s: float = Field(default=60, ge=0)
    """How long there have to be fewer before a process ends, once it has answered what it has begun."""
    own_clicks: bool = True
    """An event that POST /v1/events accepts counts in the next read, before the stream has folded it."""
