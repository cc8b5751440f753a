"""An event model that somebody fitted elsewhere: registered by command, judged, asked by the stream and over HTTP."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import click
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from mlflow.models import infer_signature
from serving_world import STREAM_ID, plain, settings, until
from small_cards import cards_in, simulated

from features.definitions.repo import load_repo
from features.errors import ArtefactError
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Batch, BatchStep, build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from models.event_champion import EventAlias, PolledChampion
from models.event_model.artefact import load_event_model
from models.event_model.columns import EventModelColumns, rounded
from models.tags import CHAMPION, TRUSTED
from models.user_model import OWN, OwnRanker
from streaming.fold.sink import FoldTarget
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import EventScoring, ModelScoring
from training.registry import ModelRegistry

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
ASKED = EventModelColumns.of(REPO, REPO.models["cards"])
STREAM = ASKED.model.stream
README = Path(__file__).resolve().parents[2] / "README.md"
OURS = [name for name in ASKED.model.input_names if name != "during_weekend"]
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def events():
    return simulated(REPO, customers=120)


@pytest.fixture(scope="module")
def root(events, tmp_path_factory) -> Path:
    """A project with the model that the README fits, on examples of payments."""
    root = cards_in(tmp_path_factory.mktemp("cards") / "project", events, REPO)
    run(root, "examples", str(root / "payments.parquet"))
    (program,) = re.findall(r"```python\n(import pyarrow.parquet.*?)```", README.read_text("utf-8"), re.DOTALL)
    program = program.replace('"examples.parquet"', repr(str(root / "payments.parquet")))
    program = program.replace('"my-model"', repr(str(root / "my-model"))).replace('"taken"', '"positive"')
    exec(re.sub(r"examples\[\[.*?\]\]", f"examples[{OURS}]", program), {})
    return root


@pytest.fixture(scope="module")
def registered(root) -> dict:
    return json.loads(run(root, "register", str(root / "my-model"), "--trust", "--json"))


@pytest.fixture(scope="module")
def registry(root) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db", root)


def run(root: Path, *words: str) -> str:
    words = (*words, "--model", "cards", "--root", str(root))
    done = CliRunner().invoke(cli, ["models", *words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def last_payment(events) -> Batch:
    """The newest payment as a batch of its own."""
    every, place = events[STREAM.name], f"{STREAM.topic}/0"
    last = every.num_rows - 1
    parsed = Parsed(every.slice(last, 1), np.arange(1), np.full(1, Verdict.VALID, np.int8), pa.nulls(1, pa.string()))
    known_at = int(every["known_at"][last].as_py())
    return Batch(1, {place: last}, {place: last + 1}, {STREAM.name: parsed}, known_at)


@pytest.fixture(scope="module")
def store(events, tmp_path_factory) -> Path:
    """Rows of all but the newest payment."""
    batch = last_payment(events)
    known = {name: table.filter(pc.less(table["known_at"], batch.written_at)) for name, table in events.items()}
    rows = SqliteRows(path := tmp_path_factory.mktemp("store") / "online.db")
    views = list(ASKED.source.views)
    first = Marker(0, batch.start, batch.start, 0)
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, known, first, batch.written_at - 1)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    return path


@pytest.fixture(scope="module")
def challenger(root, registered, tmp_path_factory) -> str:
    """The version of a pyfunc that knows nothing, which the gate has refused."""
    saying(0.5, folder := tmp_path_factory.mktemp("models") / "constant", root)
    with pytest.raises(click.ClickException, match="not surely above"):
        run(root, "register", str(folder), "--trust")
    return str(json.loads(run(root, "list", "--json"))["models"][0]["version"])


def test_the_models_examples_are_what_ours_learns_from(root) -> None:
    table = pq.read_table(root / "payments.parquet")
    assert table.column_names == [*ASKED.model.input_names, "positive"]
    assert 0 < sum(table["positive"].to_pylist()) < table.num_rows
    assert table["terminal_risk_24h_delay_7d"].null_count > 0


def test_an_own_model_is_champion_by_its_verdict_and_stream_and_service_say_what_it_says(
    root, registered, registry, events, store, tmp_path
) -> None:
    assert (registered["may_serve"], registered["aliases"]) == (True, ["champion"]), registered["reason"]
    batch = last_payment(events)
    stored, views = SqliteRows(store).generation(STREAM_ID), list(ASKED.source.views)
    champion = PolledChampion(EventAlias(registry.uri, ASKED))
    champion.start()
    told: list[pa.Table] = []
    scoring = EventScoring([ModelScoring(champion, DecisionLog(tmp_path / "decisions", STREAM), told.append)])
    asking = scoring.of_generation(FoldTarget(REPO, stored, STREAM_ID))
    assert asking is not None
    (event,) = batch.parsed[STREAM.name].events.to_pylist()
    fields = {name: event[name] for name in ("event_time", "customer_id", "terminal_id", "amount")}
    with plain(settings(store, registry.uri)) as http:
        status, answer, _ = http.ask("/v1/score", {"model": "cards", "event": fields, "as_of": batch.written_at + 1})
    assert status == 200, answer
    BatchStep(stored, views, STREAM_ID, asking.here).run(batch)
    scoring.close()
    (decided,) = told.pop().to_pylist()
    matrix = ASKED.source.matrix_before(batch.parsed[STREAM.name].events, events)
    inputs = pd.DataFrame(rounded(ASKED.inputs(matrix)), columns=list(ASKED.model.input_names))
    expected = mlflow.sklearn.load_model(str(root / "my-model")).predict_proba(inputs[OURS])[0, 1]
    assert decided["problem"] is None
    assert decided["score"] == pytest.approx(expected, abs=1e-9)
    assert answer["score"] == pytest.approx(expected, abs=1e-9)
    assert answer["model"]["version"] == decided["version"] == registered["version"]


def test_it_goes_to_executors_by_its_files_and_says_the_same_there(registered, registry) -> None:
    loaded = EventAlias(registry.uri, ASKED).latest()
    assert loaded is not None
    inputs = np.random.default_rng(1).random((20, len(ASKED.model.input_names))) * 100
    inputs[::3, 5] = np.nan
    there = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_array_equal(there.model.scores(inputs), loaded.model.scores(inputs))


def test_without_a_word_of_trust_for_these_very_files_nothing_loads_it(root, registered, registry) -> None:
    with pytest.raises(click.ClickException, match="--trust"):
        run(root, "register", str(root / "my-model"))
    version = registry.get("cards", registered["version"])
    assert version.tags[TRUSTED] == version.digest
    folder = Path(registry.client.get_model_version("cards", version.version).source.removeprefix("file://"))
    with pytest.raises(ArtefactError, match="trusted"):
        load_event_model(folder, version.digest)
    assert isinstance(load_event_model(folder, version.digest, trusted=True).classifier, OwnRanker)
    registry.client.delete_model_version_tag("cards", version.version, TRUSTED)
    champion = EventAlias(registry.uri, ASKED)
    assert (champion.latest(), "trusted" in (champion.problem or "")) == (None, True)
    registry.trust(version)
    whole = (folder / OWN).read_bytes()
    (folder / OWN).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=OWN):
        load_event_model(folder, version.digest, trusted=True)
    (folder / OWN).write_bytes(whole)


def saying(answer: float, folder: Path, root: Path) -> None:
    """A model in the folder that says the same of every event."""

    class Constant(mlflow.pyfunc.PythonModel):
        """Knows nothing."""

        def predict(self, context, model_input: pd.DataFrame, params=None):
            return model_input["amount"] * 0.0 + answer

    signature = infer_signature(pq.read_table(root / "payments.parquet").to_pandas()[["amount"]])
    mlflow.pyfunc.save_model(folder, python_model=Constant(), signature=signature, pip_requirements=[])


def test_a_model_that_knows_nothing_stays_challenger_and_one_that_says_no_chances_is_refused(
    root, challenger, registered, registry, tmp_path
) -> None:
    saying(7.0, tmp_path / "seven", root)
    with pytest.raises(click.ClickException, match="from 0 to 1"):
        run(root, "register", str(tmp_path / "seven"), "--trust")
    found = {one.version: one.aliases for one in registry.versions("cards")}
    assert found == {challenger: ("challenger",), registered["version"]: (CHAMPION,)}


def test_a_challenger_is_asked_beside_the_champion_and_never_answers(challenger, registered, registry, store) -> None:
    event = {"customer_id": 3, "terminal_id": 9, "amount": 250.0}
    with plain(settings(store, registry.uri, shadow_share=1.0)) as http:
        answers = [http.ask("/v1/score", {"model": "cards", "event": event})[1] for _ in range(3)]
        until(
            lambda: 'headrace_score_shadow_total{model="cards",status="scored"} 3.0' in http.text("/metrics"),
            "the shadow",
        )
        told = http.text("/metrics")
    assert {one["model"]["version"] for one in answers} == {registered["version"]}
    assert all(one["score"] != 0.5 for one in answers)
    apart = abs(answers[0]["score"] - 0.5)
    (total,) = (line for line in told.splitlines() if line.startswith("headrace_score_shadow_difference_sum"))
    assert float(total.split()[-1]) == pytest.approx(3 * apart, abs=1e-6)
