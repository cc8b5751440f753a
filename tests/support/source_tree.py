"""The source tree as data: its modules, their imports, and the doors (``__init__``) of its packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("features", "models", "streaming", "serving", "training", "headrace")


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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_anywhere(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_in(ast.walk(parsed(path)))}


def imported_at_import(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_in(at_import(parsed(path)))}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offences(names_by_path: dict[str, set[str]]) -> dict[str, set[str]]:
    return {path: names for path, names in names_by_path.items() if names}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OURS = {dotted(path): path for path in modules(*PACKAGES)}
DOORS = {name for name, path in OURS.items() if path.name == "__init__.py"}


def package_of(module: str) -> str:
    return module if module in DOORS else module.rpartition(".")[0]


@cache
def our_imports(path: Path) -> list[tuple[int, str, str]]:
    """Line, module and name of each import of our packages; the name is '' if a module is imported."""
    imports = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module in OURS:
            named = [(f"{node.module}.{alias.name}", alias.name) for alias in node.names]
            imports += [
                (node.lineno, module, "") if module in OURS else (node.lineno, str(node.module), name)
                for module, name in named
            ]
        elif isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name, "") for alias in node.names if alias.name in OURS]
    return imports


@cache
def door_of(module: str) -> list[str]:
    """The names in the package's ``__all__``."""
    for node in parsed(OURS[module]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def is_inside(importer: str, package: str) -> bool:
    return f"{package_of(importer)}.".startswith(f"{package}.")
