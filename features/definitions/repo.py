"""Loads a feature repo: the definitions in the Python files of the user's folder.

The files are found by path. While they load they are modules of a package with a unique name, so that two repos with a
``shop.py`` each do not collide, ``from .shop import user`` works between the files of one, and neither sys.path nor any
other import changes.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from features.definitions.expressions import FrozenMap
from features.definitions.models import BaseEventModel, ChosenRecommenders, Recommender, Silence, chosen_recommenders
from features.definitions.streams import Entity, Stream
from features.definitions.views import FeatureView, canonical
from features.errors import DefinitionError, HeadraceError, UsageError

Definition = Entity | Stream | FeatureView | BaseEventModel | Recommender | Silence

Definitions = dict[tuple[type, str], tuple[Definition, str]]
"""(class of KINDS, name) → the definition and its file."""

D = TypeVar("D", Entity, Stream, FeatureView, BaseEventModel, Recommender, Silence)

KINDS: dict[type, str] = {
    Entity: "entity",
    Stream: "stream",
    FeatureView: "feature view",
    BaseEventModel: "event model",
    Recommender: "recommender",
    Silence: "silence",
}

_numbers = itertools.count()


@dataclass(frozen=True)
class FeatureRepo:
    """The definitions of a feature repo, by name, in the order of its files and of the lines in them."""

    path: Path
    entities: Mapping[str, Entity]
    streams: Mapping[str, Stream]
    views: Mapping[str, FeatureView]
    models: Mapping[str, BaseEventModel] = field(default_factory=dict)
    recommenders: Mapping[str, Recommender] = field(default_factory=dict)
    silences: Mapping[str, Silence] = field(default_factory=dict)

    def chosen_recommenders(self, written: Mapping[str, Any] | None = None) -> ChosenRecommenders:
        """The recommenders by the definitions and by the section [training] as it is written. Raises UsageError."""
        return chosen_recommenders(self.recommenders, self.streams, self.views, written)

    def views_of(self, stream: Stream) -> tuple[FeatureView, ...]:
        """The views of the entities whose keys the stream's events have."""
        return tuple(view for view in self.views.values() if set(view.entity.keys) <= set(stream.dtypes))

    def columns_of(self, stream: Stream) -> dict[str, str]:
        """Name → dtype of every column that a model of the stream's events can use: its fields and features."""
        features = {feature.name: feature.dtype for view in self.views_of(stream) for feature in view.features}
        return {**features, **stream.dtypes}

    def keys_of(self, stream: str) -> frozenset[str]:
        """The fields of the stream that are keys of an entity: their texts are identifiers (features.events.ids)."""
        keys = {key for entity in self.entities.values() for key in entity.keys}
        return frozenset(keys & set(self.streams[stream].mapped))

    def horizon_ms(self, stream: str) -> int | None:
        """The longest horizon of the views that read the stream; None if no view does, so that no event is late."""
        horizons = [view.horizon_ms for view in self.reading(stream)]
        return max(horizons, default=None)

    def reading(self, stream: str) -> tuple[FeatureView, ...]:
        """The views that read the stream."""
        return tuple(view for view in self.views.values() if stream in {source.name for source in view.streams})


def load_repo(path: str | Path) -> FeatureRepo:
    """The definitions of a folder's *.py files (or of one file).

    A view's entity and streams, and what a model names, belong to the repo even if no file gives them a name.

    Raises:
        DefinitionError: a file cannot be imported (with its line), two different definitions have the same name, or
            two recommenders are the default.
        UsageError: the path does not exist or has no Python file.
    """
    path = Path(path)
    definitions: Definitions = {}
    for file, module in _modules(path, _files(path)):
        for definition in _definitions(module):
            _add(definitions, definition, str(file))
    views, models = _of_class(FeatureView, definitions), _of_class(BaseEventModel, definitions)
    entities, streams = _of_class(Entity, definitions), _of_class(Stream, definitions)
    recommenders = _of_class(Recommender, definitions)
    silences = _of_class(Silence, definitions)
    repo = FeatureRepo(path, entities, streams, views, models, recommenders, silences)
    for model in models.values():
        model.check(repo.columns_of(model.stream))
    _check_scored(repo)
    _check_silences(repo)
    _check_recommenders(repo)
    return repo


def _check_scored(repo: FeatureRepo) -> None:
    """Raises DefinitionError where two models write one stream, or events of other producers are in its topic."""
    writers: dict[str, str] = {}
    for model in repo.models.values():
        if model.scored is not None:
            topic = model.scored.topic
            others = [stream.name for stream in repo.streams.values() if topic in stream.topics]
            others += [f"model {writers[topic]}"] if topic in writers else []
            if others != [model.scored.name]:
                got = f"topic '{topic}' of {', '.join(others)}"
                raise DefinitionError(f"event model '{model.name}': scored", "a topic that it alone writes", got)
            writers[topic] = model.name


def _check_silences(repo: FeatureRepo) -> None:
    for silence in repo.silences.values():
        if not any(view.entity == silence.entity for view in repo.reading(silence.stream.name)):
            required = f"a view of '{silence.entity.name}' that reads stream '{silence.stream.name}'"
            raise DefinitionError(f"silence '{silence.name}'", required, "none")


def _check_recommenders(repo: FeatureRepo) -> None:
    where = f"feature repo '{repo.path}'"
    if both := [name for name in repo.recommenders if name in repo.models]:
        required = "names of recommenders and event models that differ, as one registry has both"
        raise DefinitionError(where, required, f"two of '{both[0]}'")
    marked = [name for name, recommender in repo.recommenders.items() if recommender.default]
    if len(marked) > 1:
        raise DefinitionError(where, "at most one recommender with default=True", ", ".join(marked))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(f"feature repo '{path}'", "a folder of Python files", "nothing there")
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"feature repo '{path}'", "at least one *.py file with definitions", "none")
    return files


class _UncachedLoader(SourceFileLoader):
    """Compiles the file as it is now: cached byte code may be of an earlier edit in the same second."""

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Raises OSError, so that no byte code is read or written."""
        raise OSError(path)


@dataclass(frozen=True)
class _Finder:
    """Finds a package's modules in its folder, for absolute and relative imports alike."""

    package: str
    folder: Path

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the package's module of that name; None for any other name."""
        package, _, stem = name.rpartition(".")
        file = self.folder / f"{stem}.py"
        if package != self.package or not file.is_file():
            return None
        return spec_from_file_location(name, file, loader=_UncachedLoader(name, str(file)))


def _modules(path: Path, files: Sequence[Path]) -> Iterator[tuple[Path, ModuleType]]:
    folder = path if path.is_dir() else path.parent
    with _package(folder) as package:
        for file in files:
            yield file, _imported(f"{package}.{file.stem}", file, folder)


@contextmanager
def _package(folder: Path) -> Iterator[str]:
    """A package for the folder's files, importable while they load."""
    name = f"_feature_repo_{next(_numbers)}"
    finder = _Finder(name, folder.resolve())
    package = module_from_spec(ModuleSpec(name, None, is_package=True))
    sys.modules[name] = package
    sys.meta_path.insert(0, finder)
    try:
        yield name
    finally:
        sys.meta_path.remove(finder)
        for module in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(f"{name}.")]:
            del sys.modules[module]


def _imported(name: str, file: Path, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except HeadraceError as error:
        where = f"{_location(error, file, folder)}: {error.where}"
        raise DefinitionError(where, error.required, error.got, error.next_step) from error
    except (Exception, SystemExit) as error:
        got = f"{type(error).__name__}: {error}".rstrip(". ")
        raise DefinitionError(
            _location(error, file, folder), "a file that can be imported", got, _hint(error, folder)
        ) from error


def _location(error: BaseException, file: Path, folder: Path) -> str:
    """'file:line' of the innermost frame in the repo."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{folder / Path(error.filename).name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_inside(frame.filename, folder)]
    return f"{folder / Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else str(file)


def _hint(error: BaseException, folder: Path) -> str:
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return f"Write 'from .{name} import …': the files are one package." if (folder / f"{name}.py").is_file() else ""


def _is_inside(filename: str, folder: Path) -> bool:
    return Path(filename).parent == folder.resolve()


def _definitions(module: ModuleType) -> Iterator[Definition]:
    for value in list(vars(module).values()):
        members = value if isinstance(value, list | tuple) else [value]
        for member in members:
            if isinstance(member, Definition):
                yield from _with_parts(member)


def _with_parts(definition: Definition) -> Iterator[Definition]:
    if isinstance(definition, FeatureView):
        yield definition.entity
        yield from definition.streams
    if isinstance(definition, BaseEventModel):
        yield from definition.streams
        yield from () if definition.scored is None else (definition.scored,)
    if isinstance(definition, Silence):
        yield from (definition.entity, definition.stream)
    if isinstance(definition, Recommender):
        yield definition.stream
        yield from () if definition.served is None else (definition.served,)
        for view in (definition.user_view, definition.item_view, definition.catalogue):
            yield from () if view is None else _with_parts(view)
    yield definition


def _of_class(kind: type[D], definitions: Definitions) -> FrozenMap[D]:
    return FrozenMap({value.name: value for value, _ in definitions.values() if isinstance(value, kind)})


def _add(definitions: Definitions, definition: Definition, file: str) -> None:
    kind = next(kind for kind in KINDS if isinstance(definition, kind))
    key = kind, definition.name
    known, other = definitions.setdefault(key, (definition, file))
    if _meaning(known) != _meaning(definition):
        where = f"{KINDS[kind]} '{definition.name}' in {file}"
        got = f"another in {other}" if other != file else "two there that differ"
        raise DefinitionError(where, "one meaning for the name", got, "Import the one, or rename the other.")


def _meaning(definition: Definition) -> str:
    """Text that is equal for definitions of the same names, order and values."""
    return json.dumps(canonical(definition))
