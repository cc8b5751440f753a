"""The tree is the architecture: who may import whom, what importing may cost, and what no file may hold."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("features", "streaming", "serving", "training")
ROOT_MODULES = tuple(sorted(path.name for path in ROOT.glob("headrace*.py")))
ENGINES = {"pyspark", "ray", "confluent_kafka", "feast"}
FEAST_PLUGINS = ("features/online_store/", "features/offline_store.py")
HEAVY = sorted(ENGINES | {"pandas", "polars", "fastavro", "mlflow", "sklearn", "deltalake", "hypothesis"})
LINES = 400


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_in(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: outside of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_anywhere(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_in(ast.walk(parsed(path)))}


def imported_at_import(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_in(at_import(parsed(path)))}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offences(found: dict[str, set[str]]) -> dict[str, set[str]]:
    return {path: names for path, names in found.items() if names}


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


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_features_and_no_other_of_ours(package):
    strangers = {*PACKAGES, "headrace", "headrace_doctor"} - {"features", package}
    assert offences({relative(path): imported_anywhere(path) & strangers for path in modules(package)}) == {}


def test_nobody_imports_the_users_feature_repo_or_the_tests_by_name():
    every = [*modules(*PACKAGES, "tests", "benchmarks", "feature_repo"), *(ROOT / name for name in ROOT_MODULES)]
    assert offences({relative(path): imported_anywhere(path) & {"feature_repo", "tests"} for path in every}) == {}


def test_a_feature_repo_imports_features_and_none_of_the_programs():
    strangers = {*PACKAGES, *(Path(name).stem for name in ROOT_MODULES)} - {"features"}
    assert offences({relative(path): imported_anywhere(path) & strangers for path in modules("feature_repo")}) == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_the_import_name(package):
    """`streaming` is mosaicml-streaming's name too: with both, which one is imported depends on the folder."""
    owners = importlib.metadata.packages_distributions()
    assert set(owners[package]) == {"headrace"}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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
    every = [*modules(*PACKAGES, "tests", "feature_repo", "benchmarks"), *(ROOT / name for name in ROOT_MODULES)]
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in every}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


ABOUT_CARDS = (
    *("features/formats/", "streaming/cards_", "streaming/producers_cli.py"),
    *("training/protocols/", "training/evaluate_cli.py"),
)
"""Readers of its files, its simulator and its protocol; everything else knows of the domain what definitions say."""


def test_the_engine_has_no_word_of_the_cards_domain():
    word = re.compile(r"\b(cards?|fraud\w*|customers?|payments?|terminals?)\b", re.IGNORECASE)
    found = {
        f"{relative(path)}:{token.start[0]}": {token.string}
        for path in modules(*PACKAGES)
        if not relative(path).startswith(ABOUT_CARDS)
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and word.search(token.string.replace("_", " "))
    }
    assert found == {}


def test_no_module_is_named_after_nothing():
    nothing = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}
    assert [relative(path) for path in modules(*PACKAGES, "tests", "benchmarks") if path.stem in nothing] == []


def test_no_package_validates_with_assert():
    """`python -O` removes assert, and its message says nothing to a user."""
    found = {
        relative(path): {f"line {node.lineno}" for node in ast.walk(parsed(path)) if isinstance(node, ast.Assert)}
        for path in [*modules(*PACKAGES), *(ROOT / name for name in ROOT_MODULES)]
    }
    assert offences(found) == {}


def test_test_folders_cannot_hide_a_package():
    """A tests/features/ would be what `import features` finds; an __init__.py makes a folder importable."""
    assert [relative(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
    assert [folder for folder in PACKAGES if (ROOT / "tests" / folder).exists()] == []


def our_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files are ours")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def lines_matching(pattern: str) -> list[str]:
    found = re.compile(pattern, re.IGNORECASE)
    return [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in our_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if found.search(line)
    ]


def test_no_file_names_a_package_registry():
    """An address pins everybody to the mirror of whoever wrote it."""
    # In pieces, so that this file does not name them either.
    hosts = ["py" + r"pi\.org", "python" + r"hosted\.", r"maven\." + "org", "repo1?" + r"\.maven", "deb" + r"\.debian"]
    hosts += ["registry" + r"\.npmjs", "crates" + r"\.io", "proxy" + r"\.golang", "--(extra-)?index" + "-url"]
    assert lines_matching("|".join(hosts)) == []


def test_no_file_holds_a_path_of_one_machine():
    folders = ["wo" + "rk", "fa" + "rm", "ro" + "ot", "ho" + r"me/\w+", "Us" + r"ers/\w+", "tmp/bash" + "_jobs"]
    assert lines_matching(rf"(?<![\w.$}}~-])/({'|'.join(folders)})/") == []


def test_the_lock_has_exact_versions_and_nothing_else():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_every_direct_requirement_is_locked():
    names = re.findall(r"^([A-Za-z0-9._-]+)", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    locked = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(names) - set(locked) == set()
