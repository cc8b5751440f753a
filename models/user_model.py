"""A user's own model: an MLflow model whose signature names inputs of ours, in a zip of its folder.

Loading it runs code that it holds, so it is loaded only if these very files were registered as trusted.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Floats
from features.errors import ArtefactError

if TYPE_CHECKING:
    import pandas as pd

OWN = "own.zip"

FLOATS = {"double": "float64", "float": "float32"}
"""Types of a signature that have a missing value, NaN, and their numpy dtypes."""

MADE_IN = (1980, 1, 1, 0, 0, 0)


class OwnRanker:
    """Scores rows of a ranker's or an event model's inputs by the model, which gets the columns of its signature.

    A scikit-learn classifier scores by the probability of its second class, any other model by what it predicts.

    Args:
        packed: the zip (see ``pack``).
        names: of the inputs, in order.

    Raises ArtefactError for a folder without an MLflow model or signature, and for a signature of other inputs.
    """

    def __init__(self, packed: bytes, names: Sequence[str]) -> None:
        self.packed, self._names = packed, tuple(names)
        folder = Path(tempfile.mkdtemp(prefix="headrace-own-"))
        # The loaded model may read its files later, so they are removed with it, or when the process ends.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            zipfile.ZipFile(io.BytesIO(packed)).extractall(folder)
            self.takes = signature_inputs(folder, names)
            self._score = scorer(folder)
        except ArtefactError:
            raise
        except Exception as error:  # a model may raise any error when it is loaded
            raise _refused("a model that can be loaded", f"{type(error).__name__}: {error}") from error
        self._columns = [list(names).index(name) for name in self.takes]
        self.n_features_in_ = len(names)

    def __reduce__(self) -> tuple[Callable[[bytes, tuple[str, ...]], OwnRanker], tuple[bytes, tuple[str, ...]]]:
        """Pickled as its files, which are loaded anew, once a process."""
        return _opened, (self.packed, self._names)

    def predict_proba(self, inputs: Floats) -> Floats:
        """(n, 2) the model's score of each row in the second column, higher is better; ValueError for other shapes."""
        import pandas as pd

        columns = zip(self.takes.items(), self._columns, strict=True)
        frame = pd.DataFrame({name: inputs[:, column].astype(dtype) for (name, dtype), column in columns})
        scores = np.asarray(self._score(frame), dtype=np.float64).reshape(len(inputs), -1)
        if scores.shape[1] != 1:
            message = f"the model must give one score a row; it gives {scores.shape[1]}"
            raise ValueError(message)
        return np.column_stack([1 - scores, scores])


@lru_cache(maxsize=4)
def _opened(packed: bytes, names: tuple[str, ...]) -> OwnRanker:
    return OwnRanker(packed, names)


def open_trusted(folder: Path, names: Sequence[str], model: str, *, trusted: bool) -> OwnRanker:
    """The model in an artefact's folder; ArtefactError, before any of it runs, unless ``trusted``."""
    if not trusted:
        required = "trusted files, as a model of your own runs its own code"
        next_step = "Run 'headrace models register … --trust'."
        raise ArtefactError(f"model '{model}'", required, "no word that they are", next_step)
    return OwnRanker((folder / OWN).read_bytes(), names)


def signature_inputs(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Input of the model's signature → its numpy dtype. Raises ArtefactError for one that is not among ``names``."""
    from mlflow.models import get_model_info

    try:
        signature = get_model_info(str(folder)).signature
    except Exception as error:
        raise _refused("an MLflow model", f"{type(error).__name__}: {error}") from error
    if signature is None or signature.inputs is None or not signature.inputs.has_input_names():
        raise _refused("a signature that names its inputs (mlflow.models.infer_signature)", "none")
    types = dict(zip(signature.inputs.input_names(), signature.inputs.input_types(), strict=True))
    unknown = [name for name in types if name not in names]
    if unknown:
        raise _refused(
            f"inputs of a ranker or of the event model ({len(names)}, see 'headrace models examples')",
            ", ".join(unknown),
        )
    others = [f"{name} {_type(kind)}" for name, kind in types.items() if _type(kind) not in FLOATS]
    if others:
        raise _refused("inputs of type double or float, as any may be missing", ", ".join(others))
    return {name: FLOATS[_type(kind)] for name, kind in types.items()}


def scorer(folder: Path) -> Callable[[pd.DataFrame], Any]:
    """The function by which the model in the folder scores a frame."""
    from mlflow.models import get_model_info

    if "sklearn" in get_model_info(str(folder)).flavors:
        import mlflow.sklearn

        classifier = mlflow.sklearn.load_model(str(folder))
        if hasattr(classifier, "predict_proba"):
            return lambda frame: classifier.predict_proba(frame)[:, 1]
    import mlflow.pyfunc

    loaded: Callable[[pd.DataFrame], Any] = mlflow.pyfunc.load_model(str(folder)).predict
    return loaded


def pack(folder: Path) -> bytes:
    """The folder as a zip, the same bytes for the same files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), MADE_IN)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _type(kind: Any) -> str:
    return str(getattr(kind, "name", kind))


def _refused(required: str, got: str) -> ArtefactError:
    return ArtefactError("a model of your own", required, got, "See README.md, 'Your own model'.")
