"""What a version tells MLflow's pages and client of itself: the signature of what it takes and gives.

They look for it in a file MLmodel beside the artefact. Nothing of ours reads that file and the manifest does not name
it, so that no byte of it is part of what serves; it names no flavour that MLflow could load and run.
"""

from __future__ import annotations

import json
from pathlib import Path

SIGNATURE = "signature.json"
"""The file of a run's record that the signature is taken from."""
MLMODEL = "MLmodel"


def write_mlmodel(folder: Path, run_id: str, artefact_path: str, signature: bytes) -> None:
    """The artefact in the folder has this signature (MLflow's, as JSON) where MLflow looks for one.

    Args:
        artefact_path: the folder's path among the run's artefacts.
    """
    from mlflow.models import Model, ModelSignature

    told = ModelSignature.from_dict(json.loads(signature))
    Model(artefact_path, run_id, signature=told, flavors={"headrace": {"data": "manifest.json"}}).save(folder / MLMODEL)
