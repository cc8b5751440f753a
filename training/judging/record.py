"""The record of a training: its provenance, the signature of the model, and pictures for a person to look at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as installed
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats
from models.recommender import Artefact, Manifest
from training.data import Domain
from training.judging.psi import columns_of, reference_of
from training.recommender import CalibrationCheck, ModelResult, RankerExamples, calibration, calibration_error
from training.registry import SIGNATURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from features.definitions import FeatureView

REFERENCE = "reference.json"
"""The file of histograms that drift is measured from."""

ROWS, SHOWN = 2_000, 20
"""Examples that importance is measured on, and inputs that are shown."""

LEAST_SHOWN = 1e-4
"""The height at which a share of 0 is drawn."""


def provenance(domain: Domain, versions: Mapping[str, int], root: Path) -> dict[str, str]:
    """Tags: the version of the code, of the definitions, and of each Delta table that was read (none for a file)."""
    return origin((domain.user, domain.item), versions, root)


def origin(views: Sequence[FeatureView], versions: Mapping[str, int], root: Path) -> dict[str, str]:
    """The same of any views."""
    hashes = {view.name: f"{view.schema_hash:016x}" for view in views}
    data = {"data_versions": json.dumps(dict(versions))} if versions else {}
    return {"code_version": code_version(root), "schema_hashes": json.dumps(hashes), **data}


def code_version(root: Path) -> str:
    """git's description of the project's folder; the version of the package where it is no repository."""
    try:
        words = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return installed("headrace")
    return done.stdout.strip() if done.returncode == 0 else installed("headrace")


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """The ranker's inputs, in order."""
    return (*manifest.pair_features, *manifest.user.names, *manifest.item.names)


def signature(manifest: Manifest) -> dict[str, Any]:
    """MLflow's signature of the ranker."""
    return signature_of(input_names(manifest))


def signature_of(names: Sequence[str]) -> dict[str, Any]:
    """MLflow's signature of a model of these inputs, in order, each a double that may be missing; it gives a score."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.double, name, required=False) for name in names])
    outputs = Schema([ColSpec(DataType.double, "score")])
    signature: dict[str, Any] = ModelSignature(inputs=inputs, outputs=outputs).to_dict()
    return signature


def files_of(
    artefact: Artefact, rows: Sequence[ModelResult], held_out: RankerExamples, calibrated: CalibrationCheck, seed: int
) -> dict[str, bytes]:
    """The files of a run's record: the signature, and the pictures as PNG; those of the ranker where there is one."""
    files = {
        SIGNATURE: json.dumps(signature(artefact.manifest), indent=1).encode(),
        "ndcg_by_k.png": png(lambda axes: _ndcg_by_k(axes, rows)),
        "coverage.png": png(lambda axes: _coverage(axes, rows)),
    }
    if artefact.ranker is not None and len(held_out.taken):
        drops = importance(artefact, held_out, seed)
        chances = artefact.chances(held_out.inputs)
        columns = columns_of(input_names(artefact.manifest), held_out.inputs, chances)
        files[REFERENCE] = reference_of(columns).model_dump_json().encode()
        files["importance.png"] = png(lambda axes: draw_importance(axes, drops))
    if len(calibrated.taken):
        files["calibration.png"] = png(lambda axes: _calibration(axes, calibrated))
    return files


def importance(artefact: Artefact, held_out: RankerExamples, seed: int) -> dict[str, float]:
    """The importance of the ranker's inputs on held-out examples (see ``importance_of``)."""
    return importance_of(input_names(artefact.manifest), held_out.inputs, held_out.taken, artefact.chances, seed)


def importance_of(
    names: Sequence[str],
    inputs: Floats,
    taken: NDArray[Any],
    chances: Callable[[Floats], Floats],
    seed: int,
    loss: Callable[[Floats, NDArray[Any]], float] | None = None,
) -> dict[str, float]:
    """The rise of the loss (the log loss unless given) when an input is shuffled; the most important first.

    Permutation importance (Breiman, 2001) on at most ROWS examples.
    """
    loss = loss or log_loss
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(taken))[:ROWS]
    inputs, taken = inputs[chosen], taken[chosen]
    before = loss(chances(inputs), taken)
    drops = {}
    for column, name in enumerate(names):
        shuffled = inputs.copy()
        shuffled[:, column] = rng.permutation(shuffled[:, column])
        drops[name] = loss(chances(shuffled), taken) - before
    return dict(sorted(drops.items(), key=lambda item: -item[1]))


def log_loss(chances: Floats, taken: NDArray[np.bool_]) -> float:
    """The mean of −ln of the chance that was given to what happened; chances are kept 1e-12 off 0 and 1."""
    right = np.clip(np.where(taken, chances, 1 - chances), 1e-12, 1.0)
    return float(-np.log(right).mean())


def png(draw: Callable[[Axes], None]) -> bytes:
    """The drawing as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    target = BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def _ndcg_by_k(axes: Axes, rows: Sequence[ModelResult]) -> None:
    for row in rows:
        axes.plot(range(1, len(row.by_k) + 1), row.by_k, label=row.model, lw=2 if row.model == "model" else 1)
    axes.set(xlabel="k", ylabel="NDCG@k on the newest slice", ylim=(0, None))
    axes.legend()


def _coverage(axes: Axes, rows: Sequence[ModelResult]) -> None:
    shown: Mapping[str, float] = {
        row.model: value for row in rows for name, value in row.metrics.items() if name.startswith("coverage")
    }
    axes.barh(list(shown), list(shown.values()))
    axes.set(xlabel="share of the catalogue that stands in any list")


def draw_importance(axes: Axes, drops: Mapping[str, float]) -> None:
    """The most important inputs as bars."""
    shown = list(drops.items())[:SHOWN][::-1]
    axes.barh([name for name, _ in shown], [drop for _, drop in shown])
    axes.tick_params(axis="y", labelsize=6)
    axes.set(xlabel="loss more when shuffled, held-out examples")


def _calibration(axes: Axes, checked: CalibrationCheck) -> None:
    """On scales of logarithms, as most candidates have small chances."""
    lines = {"as the ranker said": checked.before}
    if checked.calibration is not None:
        lines["calibrated"] = checked.chances
    every = []
    for name, chances in lines.items():
        mean, share = calibration(chances, checked.taken)
        every += [*mean, *share]
        error = calibration_error(chances, checked.taken)
        axes.plot(mean, np.maximum(share, LEAST_SHOWN), "o-", label=f"{name}: error {error:.4f}")
    low, high = max(min(every), LEAST_SHOWN), max(*every, LEAST_SHOWN)
    axes.plot([low, high], [low, high], "k:", lw=1)
    axes.set(xlabel="chance that the model gave", ylabel="share that was taken", xscale="log", yscale="log")
    axes.set_title("all candidates of the later half of the newest slice")
    axes.legend()
