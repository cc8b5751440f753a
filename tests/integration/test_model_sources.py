"""Models are fetched from where they belong, whatever address a writer of the registry has put there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_world import MODEL, Models, model
from serving_world import REPO as SHOP

from features.definitions.repo import load_repo
from features.errors import ArtefactError
from headrace.project import Project
from models.followed import FollowedAlias, VersionLoader
from models.recommender import open_recommender
from models.recommender.artefact import save
from models.registry import MlflowRegistry, allow_sources, checked_source, client_of, downloaded
from models.tags import DIGEST_TAG, verdict_tags

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    made = Models(tmp_path_factory.mktemp("registry"), load_repo(SHOP))
    made.promote(made.register(step=1))
    return made


@pytest.fixture(autouse=True)
def nothing_more_is_allowed() -> Iterator[None]:
    allow_sources(())
    yield
    allow_sources(())


def check(models: Models, source: str) -> str:
    return checked_source(source, client_of(models.uri), models.uri)


def test_the_registrys_own_folder_is_a_source_by_any_spelling(models):
    folder = models.folder / "model1"
    for source in (str(folder), folder.as_uri(), f"{folder}/../model1", f"models:/{MODEL}/1"):
        assert Path(check(models, source).removeprefix("file://")).resolve() == folder
    with downloaded(f"{folder}/manifest.json", models.uri) as path:
        assert path.read_bytes()


@pytest.mark.parametrize(
    "source",
    [
        "/etc",
        "{registry}/../elsewhere",
        "file:///etc/passwd",
        "file://another.host{registry}/model1",
        "{registry}/%2e%2e/../../etc",
        "http://169.254.169.254/latest/meta-data",
        "https://example.org/model",
        "s3://bucket/models/one",
        "ftp://example.org/model",
        "dbfs:/models/one",
        "mlflow-artifacts://example.org/0/model",
        "{link}",
    ],
)
def test_any_other_address_is_refused_before_anything_is_fetched(models, tmp_path, source):
    link = models.folder / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc")
    with pytest.raises(ArtefactError, match=r"an address below .*mlflow\.sources"):
        check(models, source.format(registry=models.folder, link=link))


def test_a_run_or_model_leads_to_an_address_that_is_checked_too(models, tmp_path):
    client = client_of(models.uri)
    foreign = client.create_experiment("foreign", "s3://elsewhere/models")
    run = client.create_run(foreign).info.run_id
    with pytest.raises(ArtefactError, match="s3://elsewhere/models"):
        check(models, f"runs:/{run}/model")
    own = client.create_experiment("own", (models.folder / "own").as_uri())
    run = client.create_run(own).info.run_id
    assert check(models, f"runs:/{run}/model") == f"{(models.folder / 'own').as_uri()}/{run}/artifacts/model"
    version = client.create_model_version(MODEL, "s3://elsewhere/one").version
    with pytest.raises(ArtefactError, match="s3://elsewhere/one"):
        check(models, f"models:/{MODEL}/{version}")


def test_settings_allow_folders_and_prefixes_that_end_where_a_name_ends(models, tmp_path):
    (tmp_path / "settings.toml").write_text('[mlflow]\nsources = ["s3://bucket/models", "shelf"]\n')
    Project.open(tmp_path)
    assert check(models, "s3://bucket/models/one") == "s3://bucket/models/one"
    assert check(models, str(tmp_path / "shelf" / "one")) == str(tmp_path / "shelf" / "one")
    for source in (
        "s3://bucket/models2/one",
        "s3://bucket/models/../other",
        "s3://bucket/models/%2e%2e/other",
        str(tmp_path / "shelf2"),
    ):
        with pytest.raises(ArtefactError):
            check(models, source)
    Project.open(models.folder)
    with pytest.raises(ArtefactError):
        check(models, "s3://bucket/models/one")


def test_a_version_from_elsewhere_is_refused_and_the_champion_stays(models, tmp_path):
    followed = FollowedAlias(
        VersionLoader(MlflowRegistry(models.uri, MODEL), open_recommender, lambda _: None), "champion"
    )
    followed.follow()
    assert followed.current is not None
    assert followed.current.version == "1"
    digest = save(model(models.repo, 2), tmp_path / "model2")
    tags = {DIGEST_TAG: digest, **verdict_tags(digest, True, "as it was trained")}
    models.promote(models.register_folder(tmp_path / "model2", tags))
    followed.follow()
    assert followed.current.version == "1"
    assert followed.refused is not None
    assert "mlflow.sources" in followed.refused.reason
    models.promote("1")
