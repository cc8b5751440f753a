"""The tree is the architecture: who may import whom, what importing may cost, and what no file may hold."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tokenize

import pytest
from source_tree import (
    DOORS,
    OURS,
    PACKAGES,
    at_import,
    door_of,
    dotted,
    imported_anywhere,
    imported_at_import,
    imports_in,
    is_inside,
    modules,
    offences,
    our_imports,
    parsed,
    relative,
)

ENGINES = {"pyspark", "ray", "confluent_kafka", "feast"}
FEAST_PLUGINS = ("features/feast/", "headrace/feast.py")
HEAVY = sorted(ENGINES | {"pandas", "polars", "fastavro", "mlflow", "sklearn", "deltalake", "hypothesis"})
LINES = 400
FILES = 12

LAYERS = {
    "": "headrace > serving streaming training > models > features",
    "features": (
        "checks feast > history online_store > formats rows > events > definitions machine secret_files > "
        "double_double zones > arrays compiling epochs errors hashing renamed times > redaction"
    ),
    "features.checks": (
        "served_log > laws stores > comparison sampling stored_entity > entity oracle reference_encoder > "
        "naive_aggregations"
    ),
    "features.definitions": (
        "changes describe repo serialized > models > views > aggregations streams > "
        "conversions > expressions paths > checks windows"
    ),
    "features.definitions.conversions": "casts > times",
    "features.definitions.expressions": "arithmetic conditions",
    "features.definitions.models": (
        "earlier > anomalies classifiers recommenders regressors > event_models > scored_streams silences"
    ),
    "features.events": (
        "arguments parsing > avro json keys split_columns > decoded dedupe > "
        "values > bisecting columns ids served_answers timestamps"
    ),
    "features.events.avro": "writer > messages registry",
    "features.events.json": "messages > shapes",
    "features.events.values": (
        "conversion lookup rules > elements exact_json numbers texts times > patterns reasons written"
    ),
    "features.feast": "offline_store online_store > objects ordinary_views paths response",
    "features.formats": "reading refused > measurements metarank > datasets > csv_rows > cells columns > files",
    "features.history": (
        "on_spark spines > point_in_time_join > archive_reader finalizers > archive hash_partitions ranges "
        "within_batch > stored_columns"
    ),
    "features.online_store": (
        "settings > redis sqlite > pending store sweep > generation > "
        "batch_step breaker changed reader seen_ids > "
        "port conflicts stream_status"
    ),
    "features.online_store.changed": "keys > log",
    "features.online_store.redis": "erasure rows > pending version_0_1 writing > client scripts slots",
    "features.online_store.seen_ids": "index > memory > blocks",
    "features.online_store.sqlite": "erasure > rows > pending > connecting",
    "features.rows": (
        "portions > folding > finalizing > compiled programs > decoder kernels > layout > entities plan > matrix tables"
    ),
    "features.rows.kernels": "fold > packing walk > stored > merging runs unpacking > contract inner",
    "headrace": "bench commands > __main__ cluster loop project > cli client console feast metrics settings simulators",
    "headrace.bench": "history loop online parse > core feast_stores train > redis_server report workload",
    "headrace.bench.loop": "alerts freshness own_clicks serve throughput > running",
    "headrace.bench.loop.serve": "command > clicks > peers steps swaps worlds wrk > requests",
    "headrace.commands": "demo doctor features forget keys models serve stream up",
    "headrace.commands.features": "check > backfill plan show verify",
    "headrace.commands.models": (
        "register > evaluate models train > evaluate_events > evaluate_lists train_events > project > options"
    ),
    "headrace.commands.stream": "deliver import_ > alerts deadletters produce stream tables",
    "headrace.simulators": "cards_traffic > cards shop zipf",
    "models": (
        "event_champion needs > followed > event_model local_copy recommender > artefact > "
        "classifier_file folder golden registry > tags trees user_model"
    ),
    "models.event_model": "decisions > artefact > scorers > columns habits manifest > inputs texts",
    "models.trees": "flat > kernel",
    "models.recommender": (
        "golden extension > artefact > reasons similar > retrieval > arrays pairs > calibration content scoring > "
        "tables"
    ),
    "models.recommender.scoring": "sources > loading > pair_rows > columns walks",
    "serving": (
        "server > app > service > recommendations replicas scoring > versions > recommend recommender_metrics > "
        "events > access batches > http > config metrics workers > settings"
    ),
    "serving.access": "gate > key_ring rates routes writable > binding > key_file principal",
    "serving.events": "posted > avro document kafka_sink pending > verdicts > bodies",
    "serving.http": (
        "docs_page > hot_routes same_site > limits > counting hosts problems ray_headers structs > request_ids schema"
    ),
    "serving.recommend": (
        "served_log > convert users > items recommender > later_items request_features unpersonal > snapshot > "
        "attributes readers"
    ),
    "serving.server": "ray_server > haproxy",
    "serving.versions": "versions > canary named shadow",
    "streaming": (
        "pipeline > observers > forget generations > archive context scoring status > incidents > alerts fold > "
        "archived_letters losses > dead_letters replay spark > kafka > jars settings supervisor"
    ),
    "streaming.alerts": "delivery > sinks status topic",
    "streaming.alerts.sinks": "delta postgres webhook > port",
    "streaming.archive": "importing > undo > cutoff earlier passes > maintenance sink > appending ends",
    "streaming.fold": "sink > executors > crash_points freshness parsed_batches pruning shares > observed_store",
    "streaming.forget": "forgetting > alerts_database online tables topics > search subject",
    "streaming.generations": "active > builder resuming running switchover > checkpoints lease rebuild_request",
    "streaming.incidents": "alerts_once silences > last_times",
    "streaming.kafka": "watermarks > broker consumer encoding topic_facts > ports producer topic_admin",
    "streaming.losses": "topic_watch > pinned_topics record > gaps",
    "streaming.scoring": "scoring > on_executors rescoring > decision_log request topics",
    "streaming.spark": "pieces query > session source",
    "training": (
        "protocols user_models > event_model refresh > judging > registry > recommender > item_content > run > "
        "data resume > "
        "evidence progress settings"
    ),
    "training.data": "item_attributes labelled_events split > dataset event_sources > sampling",
    "training.event_model": (
        "fit > drift record > gate > training > classes incidents ranking regression > kinds > metrics"
    ),
    "training.judging": "drift registration > judge parity > gate record > confidence psi",
    "training.protocols": (
        "leave_one_out new_items random_split session time_split > lists ranklens > "
        "events fraud_handbook impressions report"
    ),
    "training.protocols.events": "event_models incidents",
    "training.recommender": (
        "settings_search > fit scorers > candidates > evaluate shown_items user_histories > "
        "calibrating co_occurrence metrics ranker"
    ),
}
"""Each package's modules and sub-packages from the highest layer to the lowest; '' is the project.

What stands on one layer imports from the layers below it alone: never from beside it, nor from above.
"""


def test_the_reader_of_imports_sees_what_runs_at_import_and_only_that():
    source = "import a.b\nif TYPE_CHECKING:\n    import c\ntry:\n    from d.e import f\nfinally: ...\n"
    source += "def g():\n    import h\n"
    tree = ast.parse(source)
    assert list(imports_in(at_import(tree))) == ["a.b", "d.e"]
    assert set(imports_in(ast.walk(tree))) == {"a.b", "c", "d.e", "h"}


def test_features_imports_no_engine_when_it_is_imported():
    found = {}
    for path in modules("features"):
        allowed = {"feast"} if relative(path).startswith(FEAST_PLUGINS) else set()
        found[relative(path)] = imported_at_import(path) & (ENGINES - allowed)
    assert offences(found) == {}


def unit_in(package: str, module: str) -> str:
    """The module or sub-package of the package that the module is, or is in; '' where it is outside, or the door."""
    inside = module.removeprefix(f"{package}.") if module.startswith(f"{package}.") else ""
    return (inside if package else module).partition(".")[0]


def layers_of(package: str) -> dict[str, int]:
    levels = LAYERS[package].split(" > ")
    return {unit: -number for number, level in enumerate(levels) for unit in level.split()}


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_imports_run_from_layer_to_layer_downwards(package):
    layer, wrong = layers_of(package), []
    for importer, path in OURS.items():
        unit = unit_in(package, importer)
        for line, module, _ in our_imports(path):
            target = unit_in(package, module)
            if unit and target and unit != target and layer[target] >= layer[unit]:
                wrong.append(f"{relative(path)}:{line}: {unit} imports {target}, which is no layer below it")
    assert wrong == []


def test_every_module_has_a_layer():
    units = {package: {unit_in(package, module) for module in OURS} - {""} for package in ("", *DOORS)}
    expected = {package: found for package, found in units.items() if len(found) > 1}
    assert {package: set(layers_of(package)) for package in LAYERS} == expected


def passes_a_door(importer: str, module: str, name: str) -> bool:
    """Whether this import of a package from outside of it asks for what that package's ``__all__`` has."""
    if module in DOORS and name:
        return is_inside(importer, module) or name in door_of(module)
    package, _, last = module.rpartition(".")
    return not package or is_inside(importer, package) or last in door_of(package)


def test_what_is_imported_from_another_package_is_in_its_all():
    wrong = [
        f"{relative(path)}:{line}: {module} {name}"
        for importer, path in OURS.items()
        for line, module, name in our_imports(path)
        if not passes_a_door(importer, module, name)
    ]
    assert wrong == []


def test_no_module_imports_from_the_door_of_its_own_package():
    """What is behind a door knows its neighbours by their modules: the door is imported after them."""
    wrong = [
        f"{relative(path)}:{line}: {module} {name}"
        for importer, path in OURS.items()
        for line, module, name in our_imports(path)
        if name and importer not in DOORS and module in DOORS and is_inside(importer, module)
    ]
    assert wrong == []


def test_every_package_says_what_goes_in_and_what_comes_out():
    docs = {package: ast.get_docstring(parsed(OURS[package])) or "" for package in DOORS}
    assert [package for package, text in docs.items() if len(text.splitlines()) < 2] == []


def test_every_name_of_a_door_is_there():
    named = {package: [name for name in door_of(package) if f"{package}.{name}" not in OURS] for package in DOORS}
    program = (
        "import importlib, json, sys\n"
        "for package, names in json.loads(sys.argv[1]).items():\n"
        "    door = importlib.import_module(package)\n"
        "    for name in names: getattr(door, name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(named)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_name_of_a_door_hides_a_module_behind_it():
    hidden = [
        f"{package}.{alias.name}"
        for package in DOORS
        for node in parsed(OURS[package]).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{package}.{alias.name}" in OURS and f"{node.module}.{alias.name}" not in OURS
    ]
    assert hidden == []


def test_no_folder_holds_more_than_a_dozen_files():
    folders = {path.parent for path in OURS.values()}
    assert {relative(one): len(list(one.glob("*.py"))) for one in folders if len(list(one.glob("*.py"))) > FILES} == {}


def test_nobody_imports_the_users_feature_repo_or_the_tests_by_name():
    every = modules(*PACKAGES, "tests", "feature_repo")
    assert offences({relative(path): imported_anywhere(path) & {"feature_repo", "tests"} for path in every}) == {}


def test_a_feature_repo_imports_headrace_alone():
    """The one name that users import: the packages behind it may move, and a repo may have a features/ of its own."""
    strangers = {*PACKAGES} - {"headrace"}
    assert offences({relative(path): imported_anywhere(path) & strangers for path in modules("feature_repo")}) == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_the_import_name(package):
    """`streaming` is mosaicml-streaming's name too: with both, which one is imported depends on the folder."""
    owners = importlib.metadata.packages_distributions()
    assert set(owners[package]) == {"headrace"}


def test_importing_features_loads_nothing_heavy_starts_nothing_and_writes_nothing(tmp_path):
    """Every command pays for what a module imports; polars, fastavro and the engines wait for their first use."""
    names = [dotted(path) for path in modules("features") if not relative(path).startswith(FEAST_PLUGINS)]
    program = (
        "import importlib, json, sys, threading\n"
        "names, heavy = json.loads(sys.argv[1])\n"
        "blamed = {}\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    new = [one for one in heavy if one in sys.modules and one not in sum(blamed.values(), [])]\n"
        "    new += ['a thread'] * (threading.active_count() > 1)\n"
        "    if new: blamed[name] = new\n"
        "print(json.dumps(blamed))\n"
    )
    command = [sys.executable, "-B", "-c", program, json.dumps([names, HEAVY])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {}
    assert list(tmp_path.iterdir()) == []


def test_no_module_is_longer_than_a_reader_keeps_in_mind():
    every = modules(*PACKAGES, "tests", "feature_repo")
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in every}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


ABOUT_DOMAINS = (
    *("features/formats/", "headrace/simulators/", "headrace/commands/stream/produce.py"),
    *("training/protocols/", "headrace/commands/models/evaluate.py", "headrace/bench/"),
)
"""Readers of their files, simulators and protocols; everything else knows of a domain what definitions say."""

WORDS_OF_DOMAINS = {
    "cards": "cards? fraud\\w* customers? payments? terminals?",
    "rides": "rides? taxis? trips? journeys? pickups? dropoffs? surge fares? destinations?",
    "mentions": "mentions? tweets? airlines? company companies sentiments?",
    "machines": "sensors? thermometers? nab",
}


@pytest.mark.parametrize("domain", WORDS_OF_DOMAINS)
def test_the_engine_has_no_word_of_a_domain(domain: str):
    word = re.compile(rf"\b({WORDS_OF_DOMAINS[domain].replace(' ', '|')})\b", re.IGNORECASE)
    found = {
        f"{relative(path)}:{token.start[0]}": {token.string}
        for path in modules(*PACKAGES)
        if not relative(path).startswith(ABOUT_DOMAINS)
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and word.search(token.string.replace("_", " "))
    }
    assert found == {}


def test_no_module_is_named_after_nothing():
    nothing = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}
    assert [relative(path) for path in modules(*PACKAGES, "tests") if path.stem in nothing] == []


def test_no_two_public_classes_share_a_name():
    """A class's name alone says which it is, in a traceback or a search."""
    homes: dict[str, list[str]] = {}
    for path in modules(*PACKAGES):
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(relative(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_no_package_validates_with_assert():
    """`python -O` removes assert, and its message says nothing to a user."""
    found = {
        relative(path): {f"line {node.lineno}" for node in ast.walk(parsed(path)) if isinstance(node, ast.Assert)}
        for path in modules(*PACKAGES)
    }
    assert offences(found) == {}
