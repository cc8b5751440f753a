"""Models that somebody fitted elsewhere: registered by command, judged, served; and what is refused before it runs."""

from __future__ import annotations

import gc
import json
import re
import tempfile
from pathlib import Path

import click
import mlflow
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from mlflow.models import infer_signature
from serving_world import MODEL, REPO, Models, fill, plain, settings, until
from shop_history import shop
from shop_training import SHOP

from features.definitions.repo import load_repo
from features.errors import ArtefactError
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from models.recommender.artefact import load
from models.tags import TRUSTED
from models.user_model import OWN, OwnRanker, pack
from training.data.dataset import Domain

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
README = Path(__file__).resolve().parents[2] / "README.md"
QUICK = ("--set", "target_events=50", "--set", "ease_l2=20", "--set", "moments=600")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with history, the examples of it, and the model that the README fits on them."""
    from deltalake import write_deltalake

    root = tmp_path_factory.mktemp("project")
    (root / "feature_repo").symlink_to(REPO)
    (root / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///mlflow.db"\n')
    write_deltalake(root / ".headrace" / "offline" / "activity", shop(Domain.of(SHOP)))
    run(root, "examples", str(root / "examples.parquet"), *QUICK)
    (program,) = re.findall(r"```python\n(import pyarrow.parquet.*?)```", README.read_text("utf-8"), re.DOTALL)
    paths = {'"examples.parquet"': repr(str(root / "examples.parquet")), '"my-model"': repr(str(root / "my-model"))}
    for name, path in paths.items():
        assert name in program
        program = program.replace(name, path)
    exec(program, {})
    return root


def run(root: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["models", *words, "--root", str(root)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def registered(root: Path) -> dict:
    return json.loads(run(root, "register", str(root / "my-model"), "--trust", "--json", *QUICK))


def test_the_readmes_model_becomes_champion_and_answers_requests(root, registered, tmp_path):
    assert (registered["may_serve"], registered["aliases"]) == (True, ["champion"]), registered["reason"]
    assert registered["metrics"]["ndcg_at_10"] > registered["metrics"]["popular_ndcg_at_10"]
    repo = load_repo(REPO)
    fill(SqliteRows(tmp_path / "online.db"), repo)
    models = Models(root, repo)
    kept = str(tmp_path / "kept")
    with plain(settings(tmp_path / "online.db", models.uri, kept_model=kept)) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        answer = http.recommend(user_id="u1", k=3)
        ranked = http.ask("/v1/rank", {"user_id": "u1", "items": ["i1", "i5", "i2"]})[1]
    assert (answer["model"]["version"], answer["fallback"]["used"]) == (registered["version"], False)
    assert all(0 < one["score"] < 1 for one in ranked["items"])


def test_without_a_word_of_trust_for_these_very_files_nothing_loads_it(root, registered):
    with pytest.raises(click.ClickException, match="--trust"):
        run(root, "register", str(root / "my-model"))
    models = Models(root, load_repo(REPO))
    tags = models.tags(registered["version"])
    assert tags[TRUSTED] == registered["digest"]
    client = mlflow.MlflowClient(models.uri)
    source = client.get_model_version(MODEL, registered["version"]).source.removeprefix("file://")
    with pytest.raises(ArtefactError, match="trusted"):
        load(source, registered["digest"])
    assert isinstance(load(source, registered["digest"], trusted=True).ranker, OwnRanker)
    path = Path(source) / OWN
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=OWN):
        load(source, registered["digest"], trusted=True)
    path.write_bytes(whole)


def test_a_pyfunc_that_knows_nothing_is_registered_and_stays_challenger_with_the_reason(root, registered):
    inputs = pq.read_table(root / "examples.parquet").to_pandas()[["similar_score"]]
    folder = root / "constant"

    class Constant(mlflow.pyfunc.PythonModel):
        """Knows nothing."""

        def predict(self, context, model_input: pd.DataFrame, params=None):
            return model_input["similar_score"] * 0.0

    mlflow.pyfunc.save_model(folder, python_model=Constant(), signature=infer_signature(inputs), pip_requirements=[])
    with pytest.raises(click.ClickException, match="not surely above popularity"):
        run(root, "register", str(folder), "--trust", *QUICK)
    listed = json.loads(run(root, "list", "--json"))["models"]
    assert [one["aliases"] for one in listed] == [["challenger"], ["champion"]]
    assert "not surely above popularity" in listed[0]["reason"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda frame: frame.rename(columns={"own_count": "own_cuont"}), "inputs of a ranker.*own_cuont"),
        (lambda frame: frame.astype({"own_count": "int64"}), "double or float.*own_count"),
    ],
)
def test_a_signature_over_what_is_no_input_is_refused_and_named(root, change, why, tmp_path):
    from sklearn.linear_model import LogisticRegression

    examples = pq.read_table(root / "examples.parquet").to_pandas().fillna(0)
    inputs = change(examples[["similar_score", "own_count"]])
    fitted = LogisticRegression().fit(inputs, examples["taken"])
    folder = tmp_path / "wrong"
    mlflow.sklearn.save_model(fitted, folder, signature=infer_signature(inputs), pip_requirements=[])
    names = ("similar_score", "own_count", "popular_score")
    with pytest.raises(ArtefactError, match=why):
        OwnRanker(pack(folder), names)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_text("no model")
    with pytest.raises(ArtefactError, match="an MLflow model"):
        OwnRanker(pack(tmp_path / "some"), ("similar_score",))


def test_a_model_that_is_gone_leaves_no_files(tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    inputs = pd.DataFrame({"similar_score": [0.0, 1.0]})
    fitted = LogisticRegression().fit(inputs, [0, 1])
    signature = infer_signature(inputs)
    mlflow.sklearn.save_model(fitted, tmp_path / "model", signature=signature, pip_requirements=[])
    packed = pack(tmp_path / "model")
    folders = tmp_path / "temporary"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    ranker = OwnRanker(packed, ("similar_score",))
    assert list(folders.glob("headrace-own-*")) != []
    del ranker
    gc.collect()
    with pytest.raises(ArtefactError):
        OwnRanker(packed, ("popular_score",))
    gc.collect()
    assert list(folders.glob("headrace-own-*")) == []
