"""Seven bad models that must never serve, made from a good one: a folder for each, and the tags to register it with."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from models.folder import MANIFEST
from models.recommender.artefact import RANKER, Artefact, save
from models.tags import DIGEST_TAG

BAD = {
    "without trees": "a fitted ranker",
    "answers NaN": "finite scores",
    "of another signature": "schema",
    "slow": "scoring 500 candidates takes",
    "another digest": "SHA-256",
    "a type that is not allowed": "DecisionTreeClassifier",
    "worse by five per cent": "may be below the champion's",
}
"""Kind of fault → a part of the reason that the gate or the service gives."""


def bad(good: Artefact, kind: str, folder: Path) -> dict[str, str]:
    """Writes a model with this fault to the folder; returns its tags, which have no verdict."""
    digest = save(_with_fault(good, kind), folder)
    if kind == "a type that is not allowed":
        digest = _with_foreign_type(folder, good)
    if kind == "another digest":
        digest = "0" * 64
    return {DIGEST_TAG: digest}


def _with_fault(good: Artefact, kind: str) -> Artefact:
    ranker = copy.deepcopy(good.ranker)
    if kind == "without trees":
        ranker._predictors = [[None]]
    if kind == "answers NaN":
        ranker._baseline_prediction = np.full_like(ranker._baseline_prediction, np.nan)
    if kind == "slow":
        ranker._predictors = ranker._predictors * 200
    if kind == "worse by five per cent":
        _negate(ranker, 4)
    if kind != "of another signature":
        return replace(good, ranker=ranker)
    user = good.manifest.user.model_copy(update={"schema_hash": "0" * 16})
    return replace(good, manifest=good.manifest.model_copy(update={"user": user}))


def _negate(ranker: Any, trees: int) -> None:
    """Negates the values of the first trees."""
    for (tree,) in ranker._predictors[:trees]:
        tree.nodes["value"] *= -1


def _with_foreign_type(folder: Path, good: Artefact) -> str:
    """Replaces the ranker by another classifier, with its digest in the manifest; returns the manifest's digest."""
    import skops.io

    path, manifest_path = folder / RANKER, folder / MANIFEST
    columns = good.ranker.n_features_in_
    skops.io.dump(DecisionTreeClassifier().fit(np.eye(2, columns), [0, 1]), path)
    content, manifest = path.read_bytes(), json.loads(manifest_path.read_text())
    manifest["files"][RANKER] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest_path.write_text(json.dumps(manifest))
    return hashlib.sha256(manifest_path.read_bytes()).hexdigest()
