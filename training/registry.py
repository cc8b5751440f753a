"""The registry of models, in MLflow: runs with metrics, versions with artefacts, and their aliases."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from features.errors import ArtefactError, UsageError
from models import tags as verdicts
from models.recommender import Artefact, goldens_of, load, save
from models.registry import checked_source, connect, registry_exists, resolve_uri
from models.tags import CANARY, CHAMPION, DIGEST_TAG, MOST_SHARE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from training.recommender import Trial

FOLDER = "model"
"""The artefact's folder among a run's artefacts."""
RECORD = "record"
"""The folder of the record, which a person looks at, among them."""
SIGNATURE = "signature.json"
"""The file of a record that has the signature of the model."""
MLMODEL = "MLmodel"
MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
PAGE, MODELS = 200, 1_000
"""Versions that MLflow lists at once, and names of models: its own limit."""


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    digest: str
    created_ms: int
    as_of_ms: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """The reason that it must not serve; None where it may."""
        return verdicts.refusal(self.tags)

    @property
    def since_ms(self) -> int:
        """The time at which it last became champion; 0 for never, and after a rollback from it."""
        return int(self.tags.get(verdicts.CHAMPION_SINCE, 0)) if verdicts.was_champion(self.tags) else 0


class RegisteredManifest(Protocol):
    """The part of a manifest that the registry shows."""

    @property
    def name(self) -> str:
        """The registered model's name."""

    @property
    def as_of_ms(self) -> int:
        """The time before which everything was known that the model knows."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Held-out metrics."""


class ModelRegistry:
    """One MLflow store: a database such as sqlite:///mlruns/mlflow.db, or the address of a server.

    Args:
        tracking_uri: where it is; the database of a relative path is below ``root``.
        root: the project's folder.
    """

    def __init__(self, tracking_uri: str, root: Path) -> None:
        self.uri, self._artefacts = resolve_uri(tracking_uri, root)
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client, connected when it is first asked for: the database is made then, which takes seconds.

        Raises StoreError where a server does not answer.
        """
        if self._client is None:
            self._client = connect(self.uri, self._artefacts)
        return self._client

    def reach(self) -> None:
        """Passes where a server answers, StoreError where not; a database of our own always does."""
        if self._artefacts is None:
            connect(self.uri, None)

    def names(self) -> list[str]:
        """The registered models' names; none, and no database either, before the first of them."""
        if not registry_exists(self.uri):
            return []
        return [model.name for model in self.client.search_registered_models(max_results=MODELS)]

    def register(
        self,
        artefact: Artefact,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        files: Mapping[str, bytes] | None = None,
    ) -> Version:
        """The artefact is a new version of the model that it is named after, with its metrics in a run of its own.

        The files stand beside it in the run's folder RECORD. The version has no verdict yet, and its answers to the
        questions of its trial go with it; ArtefactError where it does not answer.
        """
        manifest = artefact.manifest.model_copy(update={"golden": goldens_of(artefact)})
        artefact = replace(artefact, manifest=manifest)
        return self.keep(manifest, lambda folder: save(artefact, folder), params, tags, files)

    def keep(
        self,
        manifest: RegisteredManifest,
        write: Callable[[Path], str],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        files: Mapping[str, bytes] | None = None,
    ) -> Version:
        """A new version of the model of this manifest, of either kind, with its metrics in a run of its own.

        Args:
            files: stand beside it in the run's folder RECORD; the signature among them is what MLflow shows.
            write: makes the folder of its artefact, and returns the digest of the manifest there.
        """
        run = self.client.create_run(self._experiment(manifest.name), tags=dict(tags))
        run_id, status = run.info.run_id, "FAILED"
        try:
            for name, value in params.items():
                self.client.log_param(run_id, name, value)
            for name, value in manifest.metrics.items():
                self.client.log_metric(run_id, name, value)
            with tempfile.TemporaryDirectory() as scratch:
                digest = write(Path(scratch) / FOLDER)
                if files and SIGNATURE in files:
                    _write_mlmodel(Path(scratch) / FOLDER, run_id, FOLDER, files[SIGNATURE])
                self.client.log_artifacts(run_id, str(Path(scratch) / FOLDER), FOLDER)
                if files:
                    self._log_files(run_id, Path(scratch) / RECORD, files)
            status = "FINISHED"
        finally:
            self.client.set_terminated(run_id, status)
        self._make_model(manifest.name)
        version = self.client.create_model_version(
            manifest.name,
            f"{run.info.artifact_uri}/{FOLDER}",
            run_id,
            tags={DIGEST_TAG: digest, "as_of_ms": str(manifest.as_of_ms), **tags},
        )
        return self._described(version)

    def log_trials(self, version: Version, trials: Sequence[Trial], metric: str) -> None:
        """Each trial of the search that chose the version's settings is a child of its run, with this metric."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        run_id = self.client.get_model_version(version.name, version.version).run_id
        for number, trial in enumerate(trials):
            tags = {MLFLOW_PARENT_RUN_ID: str(run_id), "trial": str(number)}
            child = self.client.create_run(
                self._experiment(version.name), tags=tags, run_name=f"trial {number}"
            ).info.run_id
            for name, value in trial.changed.items():
                self.client.log_param(child, name, value)
            self.client.log_metric(child, metric, trial.ndcg)
            self.client.set_terminated(child, "FINISHED")

    def _log_files(self, run_id: str, folder: Path, files: Mapping[str, bytes]) -> None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self.client.log_artifacts(run_id, str(folder), RECORD)

    def set_alias(self, version: Version, alias: str) -> None:
        """The alias names this version, and no other."""
        self.client.set_registered_model_alias(version.name, alias, version.version)

    def judge(self, version: Version, passed: bool, reason: str) -> Version:
        """The version has this verdict, which is about the files that it has now."""
        return self._tagged(version, verdicts.verdict_tags(version.digest, passed, reason))

    def trust(self, version: Version) -> Version:
        """The version's files, as they are now, may run their own code."""
        return self._tagged(version, verdicts.trust_tags(version.digest))

    def promote(self, version: Version, now_ms: int) -> Version:
        """The version is the champion. Raises UsageError for one that must not serve."""
        if version.refusal is not None:
            where = f"champion of model '{version.name}'"
            raise UsageError(where, "a version that the gate let through", f"{version.version}: {version.refusal}")
        if verdicts.SERVING_REFUSED in version.tags:
            self.client.delete_model_version_tag(version.name, version.version, verdicts.SERVING_REFUSED)
        self._tagged(version, verdicts.champion_tags(version.digest, now_ms))
        self.set_alias(version, CHAMPION)
        if CANARY in version.aliases:  # else a rollback would make it one again
            self.drop_alias(version.name, CANARY)
        return self.get(version.name, version.version)

    def begin_canary(self, version: Version, share: float | None, now_ms: int) -> Version:
        """The version answers a share of the users (None: the setting's); what stopped it before is forgotten.

        Raises UsageError for one that must not serve, for the champion, and for a share that leaves it too few users.
        """
        where = f"canary of model '{version.name}'"
        if version.refusal is not None:
            raise UsageError(where, "a version that the gate let through", f"{version.version}: {version.refusal}")
        if CHAMPION in version.aliases:
            raise UsageError(where, "another version than the champion", version.version)
        if share is not None and not 0 < share <= MOST_SHARE:
            raise UsageError(where, f"a share above 0, and of at most {MOST_SHARE}", str(share))
        for tag in (verdicts.CANARY_STOPPED, verdicts.CANARY_SHARE):
            if tag in version.tags:
                self.client.delete_model_version_tag(version.name, version.version, tag)
        self._tagged(version, verdicts.canary_tags(share, now_ms))
        self.set_alias(version, CANARY)
        return self.get(version.name, version.version)

    def rollback(self, name: str) -> Version:
        """The champion before the present one is the champion again.

        A second rollback goes one further back. A version that was left does not come back, unless promoted again.
        Raises UsageError where there is none.
        """
        now = self.find(name)
        promoted = [
            self.get(name, str(listed.version))
            for listed in self._listed(name)
            if verdicts.CHAMPION_SINCE in listed.tags
        ]
        earlier = [past for past in promoted if past.since_ms and (now is None or past.version != now.version)]
        if now is not None and now.since_ms:
            earlier = [past for past in earlier if past.since_ms < now.since_ms]
        if not earlier:
            got = "no version" if now is None else f"version {now.version}, and none before it"
            raise UsageError(f"rollback of model '{name}'", "a version that was champion before", got)
        before = max(earlier, key=lambda past: past.since_ms)
        self.set_alias(before, CHAMPION)
        if now is not None and now.since_ms:
            self.client.delete_model_version_tag(name, now.version, verdicts.CHAMPION_SINCE)
        return self.get(name, before.version)

    def _tagged(self, version: Version, tags: Mapping[str, str]) -> Version:
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value)
        return replace(version, tags={**version.tags, **tags})

    def drop_alias(self, name: str, alias: str) -> None:
        """The alias names no version."""
        self.client.delete_registered_model_alias(name, alias)

    def find(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version that the alias names; None where there is no such model or alias."""
        from mlflow.exceptions import MlflowException

        try:
            return self._described(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in (MISSING, "INVALID_PARAMETER_VALUE"):  # the latter: a model without this alias
                return None
            raise

    def get(self, name: str, version: str) -> Version:
        """The version of this number, or that this alias names. Raises UsageError where there is none."""
        from mlflow.exceptions import MlflowException

        get = self.client.get_model_version if version.isdecimal() else self.client.get_model_version_by_alias
        try:
            return self._described(get(name, version))
        except MlflowException as error:
            if error.error_code not in (MISSING, "INVALID_PARAMETER_VALUE"):
                raise
            next_step = "See 'headrace models list'."
            raise UsageError(f"model '{name}'", "a version or an alias that it has", version, next_step) from None

    def versions(self, name: str | None = None, most: int | None = None) -> list[Version]:
        """The registered versions (of one model), the newest first: at most so many, where that is given."""
        # The list has no aliases, each version has.
        newest = islice(self._listed(name), most)
        return [self._described(self.client.get_model_version(listed.name, listed.version)) for listed in newest]

    def _listed(self, name: str | None) -> Iterator[ModelVersion]:
        """Every registered version (of one model) without its aliases, the newest first."""
        if name and "'" in name:  # which no query can say
            return
        query, page = (f"name = '{name}'" if name else None), None
        while True:
            versions = self.client.search_model_versions(query, PAGE, ["creation_timestamp DESC"], page)
            yield from versions
            page = versions.token
            if not page:
                return

    def fetch(self, version: Version, folder: Path) -> Artefact:
        """The version's artefact, copied into ``folder``; ArtefactError where it is not what was registered."""
        return load(self.download(version, folder), version.digest, trusted=verdicts.trusted(version.tags))

    def download(self, version: Version, folder: Path) -> Path:
        """The path in ``folder`` of the version's downloaded artefact. Raises ArtefactError where it cannot be had."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        source = self.client.get_model_version(version.name, version.version).source
        where = f"model '{version.name}' version {version.version}"
        if not version.digest:
            raise ArtefactError(where, f"a tag {DIGEST_TAG}", "none", "Register it with 'headrace train'.")
        try:
            source = checked_source(str(source), self.client, self.uri)
            path = download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=self.uri)
        except (MlflowException, OSError) as error:
            raise ArtefactError(where, f"its artefact in {source}", str(error), "Train anew.") from error
        return Path(path)

    def recorded(self, version: Version, name: str) -> bytes | None:
        """A file of the record of the version's run; None where there is none, or where nothing may be fetched from."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        run_id = self.client.get_model_version(version.name, version.version).run_id
        if not run_id:
            return None
        try:
            source = checked_source(f"runs:/{run_id}/{RECORD}/{name}", self.client, self.uri)
            with tempfile.TemporaryDirectory() as scratch:
                path = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=self.uri)
                return Path(path).read_bytes()
        except (ArtefactError, MlflowException, OSError):
            return None

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None if self._artefacts is None else (self._artefacts / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=location))

    def _make_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != EXISTS:
                raise

    def _described(self, version: ModelVersion) -> Version:
        metrics = self.client.get_run(version.run_id).data.metrics if version.run_id else {}
        return Version(
            name=version.name,
            version=str(version.version),
            aliases=tuple(sorted(version.aliases)),
            digest=version.tags.get(DIGEST_TAG, ""),
            created_ms=int(version.creation_timestamp),
            as_of_ms=int(version.tags.get("as_of_ms", 0)),
            metrics=metrics,
            tags=dict(version.tags),
        )


def _write_mlmodel(folder: Path, run_id: str, artefact_path: str, signature: bytes) -> None:
    """MLflow's pages and client show this signature (MLflow's, as JSON), from a file beside the artefact.

    Nothing of ours reads that file and the manifest does not name it, so that it is no part of what serves; it names no
    flavour that MLflow could load and run.

    Args:
        artefact_path: the folder's path among the run's artefacts.
    """
    from mlflow.models import Model, ModelSignature

    parsed = ModelSignature.from_dict(json.loads(signature))
    Model(artefact_path, run_id, signature=parsed, flavors={"headrace": {"data": "manifest.json"}}).save(
        folder / MLMODEL
    )
