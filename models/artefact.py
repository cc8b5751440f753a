"""What the artefacts of recommenders and of event models have in common: manifest, classifier, views of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from features.definitions import FeatureView
from features.errors import ArtefactError
from models.classifier_file import CHANCES, load_ranker, save_ranker
from models.folder import MANIFEST, FileEntry, ViewInputs, check_files, manifest_text, write_folder
from models.user_model import OWN, OwnRanker, open_trusted


class ArtefactManifest(Protocol):
    """What a manifest says, whatever the model."""

    @property
    def name(self) -> str:
        """The registered model's name."""

    @property
    def files(self) -> dict[str, FileEntry]:
        """The other files of the folder."""


AnyManifest = TypeVar("AnyManifest", bound=ArtefactManifest)


def save_artefact(
    directory: str | Path,
    manifest: BaseModel,
    classifier: Any,
    classifier_file: str,
    write_rest: Callable[[Path], object] = lambda _: None,
) -> str:
    """The artefact stands in a new folder, whole or not at all; returns the hex SHA-256 of its manifest.json.

    Args:
        manifest: its field ``files`` is filled in.
        classifier: one of training's, a user's own (whose file is OWN), or None for no file.
        write_rest: writes the other files into the folder.

    Raises ArtefactError when the folder exists already.
    """

    def fill(folder: Path) -> None:
        write_rest(folder)
        if isinstance(classifier, OwnRanker):
            (folder / OWN).write_bytes(classifier.packed)
        elif classifier is not None:
            save_ranker(classifier, folder / classifier_file)

    return write_folder(Path(directory), fill, lambda files: manifest.model_copy(update={"files": files}))


def read_manifest(
    directory: Path, digest: str | None, validate: Callable[[bytes], AnyManifest], layouts: Sequence[Collection[str]]
) -> AnyManifest:
    """The manifest of a folder, after every byte of the folder's files was checked against it.

    Args:
        digest: hex SHA-256 that manifest.json must have; None for any.
        validate: parses the manifest, raising ValidationError.
        layouts: the sets of files that such a folder may have.

    Raises ArtefactError, which names the file.
    """
    path = directory / MANIFEST
    where = f"artefact file '{path}'"
    text = manifest_text(path, digest)
    try:
        manifest = validate(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the text"
        raise ArtefactError(f"{where}: {field}", "what training writes", first["msg"], "Train anew.") from error
    if set(manifest.files) not in [set(layout) for layout in layouts]:
        required = "files " + ", or ".join(" and ".join(layout) for layout in layouts)
        raise ArtefactError(where, required, ", ".join(manifest.files) or "none", "Train anew.")
    check_files(directory, manifest.files)
    return manifest


def load_classifier(
    directory: Path,
    manifest: ArtefactManifest,
    classifier_file: str,
    inputs: Sequence[str],
    *,
    trusted: bool,
    answers: str = CHANCES,
) -> Any:
    """The artefact's classifier, which takes these inputs; None where the manifest names no file of one.

    Args:
        trusted: whether a user's own model may run its code; one of training's runs none.
        answers: the method by which one of training's answers.

    Raises ArtefactError for a model that is not trusted, takes other inputs, or holds a type that is not in our list
    (before anything of it is built).
    """
    if OWN in manifest.files:
        return open_trusted(directory, inputs, manifest.name, trusted=trusted)
    if classifier_file not in manifest.files:
        return None
    return load_ranker(directory / classifier_file, len(inputs), answers)


def check_views(model: str, inputs: Iterable[ViewInputs], views: Mapping[str, FeatureView]) -> None:
    """Passes when these views are as at the model's training; ArtefactError names the first that differs.

    Args:
        model: the registered model's name.
        inputs: those of the model's manifest.
        views: by name.
    """
    for trained in inputs:
        where = f"model '{model}': feature view '{trained.view}'"
        view = views.get(trained.view)
        if view is None:
            raise ArtefactError(where, "a view of that name", ", ".join(views) or "none", "Train anew.")
        if ViewInputs.of(view, trained.names) != trained or not set(trained.names) <= set(view.names):
            required, got = f"schema {trained.schema_hash}, as at training", f"schema {view.schema_hash:016x}"
            raise ArtefactError(where, required, got, "Train anew.")
