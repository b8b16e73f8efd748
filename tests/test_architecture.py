"""The rules of the house that no single file can keep: who may import whom, and what is nowhere to be found."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("lars_agent", "service")
OWN_FOLDERS = (*PACKAGES, "bench", "deploy", "examples", "tests")
SERVICE_ONLY = {"service", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "apscheduler", "typer"}
EXECUTING_FORMATS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
ROWS = "service.db.tables"
DATABASE_ONLY = ("sqlalchemy", "alembic")
# Rooms from the ground up: a room may import only from those that stand before it.
LIBRARY = ("errors", "records", "files", "calibration", "processor", "example", "english", "secrets", "ops", "memory",
           "lars", "models", "planning", "store", "training", "runtime")  # fmt: skip
DAEMON = ("alarms", "settings", "process", "db", "worker", "serving", "cycle", "schedule", "backup", "housekeeping",
          "support", "daemon", "reload", "api", "connections", "dashboard", "app", "server", "cli",
          "__main__")  # fmt: skip
MAX_FILE, MAX_FUNCTION = 350, 50  # lines


def sources(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Full names of all modules, and of all names, that the file imports anywhere in its code."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (argument.value for argument in node.args[:1] if _is_text(argument))  # type: ignore[attr-defined]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def violations(paths: list[Path], forbidden: set[str]) -> list[str]:
    """`file: module` for each import whose first part is forbidden."""
    return [
        f"{module_name(path)}: {name}" for path in paths for name in imports(path) if name.split(".")[0] in forbidden
    ]


def exported(path: Path) -> list[str] | None:
    """The file's `__all__`, None where it has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def in_order(names: list[str]) -> list[str]:
    """CONSTANTS, then Classes, then functions, as ruff sorts them (RUF022)."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


EXPORTING = [path for path in sources(*PACKAGES) if exported(path) is not None]
INITS = [path for path in sources(*PACKAGES) if path.name == "__init__.py"]


def test_the_library_knows_nothing_of_the_daemon() -> None:
    assert violations(sources("lars_agent"), SERVICE_ONLY) == []


def room(module: str) -> str:
    """The part of a package that the module belongs to: `service.api.jobs` to `api`."""
    return module.split(".")[1]


@pytest.mark.parametrize(("package", "order"), [("lars_agent", LIBRARY), ("service", DAEMON)])
def test_no_room_imports_from_one_above_it(package: str, order: tuple[str, ...]) -> None:
    paths = [path for path in sources(package) if module_name(path) not in (package, f"{package}.data")]
    assert {room(module_name(path)) for path in paths} == set(order)
    upwards = {
        f"{module_name(path)}: {name}"
        for path in paths
        for name in imports(path)
        if name.startswith(f"{package}.")
        and room(name) in order
        and order.index(room(name)) > order.index(room(module_name(path)))
    }
    assert sorted(upwards) == []


def test_the_runtime_and_the_trainer_do_not_know_each_other() -> None:
    found = [f"{module_name(path)}: {name}" for path in sources("lars_agent/runtime") for name in imports(path)]
    assert [line for line in found if ": lars_agent.training" in line] == []


def test_only_the_database_package_speaks_sql() -> None:
    outside = [path for path in sources("service") if room(f"{module_name(path)}.") != "db"]
    assert violations(outside, set(DATABASE_ONLY)) == []


@pytest.mark.parametrize("folder", [*PACKAGES, "bench", "examples"])
def test_files_and_functions_are_read_in_one_sitting(folder: str) -> None:
    too_long = []
    for path in sources(folder):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MAX_FILE:
            too_long.append(f"{module_name(path)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "migrations" not in path.parts:
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    too_long.append(f"{module_name(path)}.{node.name}: {length} lines")
    assert too_long == []


def test_the_packages_do_not_know_tests_benchmarks_or_examples() -> None:
    assert violations(sources(*PACKAGES), {"tests", "bench", "examples"}) == []


def test_rows_never_leave_the_database_package() -> None:
    outside = [
        path for path in sources(*OWN_FOLDERS) if not module_name(path).startswith(("service.db", "tests.service.db"))
    ]
    assert [f"{module_name(path)}: {name}" for path in outside for name in imports(path) if name.startswith(ROWS)] == []


def test_nothing_is_ever_pickled() -> None:
    assert violations(sources(*OWN_FOLDERS), EXECUTING_FORMATS) == []
    executing = re.compile(
        r"\btorch\.(?:load|save)\b|\bfrom torch import [^\n]*\b(?:load|save)\b|allow_pickle\s*=\s*True"
    )
    code = {
        path: ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
        for path in sources(*PACKAGES, "bench", "examples")
    }
    assert [module_name(path) for path, text in code.items() if executing.search(text)] == []


def test_every_file_is_named_after_what_it_holds() -> None:
    paths = [part for path in sources(*OWN_FOLDERS) for part in (path.with_suffix(""), path.parent)]
    assert sorted({str(path) for path in paths if path.name in VAGUE_NAMES and "tests" not in path.parts}) == []


def test_every_module_with_code_says_what_it_is() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources(*PACKAGES)}
    assert [module_name(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("path", INITS, ids=module_name)
def test_a_package_that_offers_names_lists_them(path: Path) -> None:
    offers = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(path.read_text()).body)
    assert exported(path) is not None or not offers


@pytest.mark.parametrize("path", EXPORTING, ids=module_name)
def test_public_names_are_sorted_and_exist(path: Path) -> None:
    names = exported(path) or []
    assert names == in_order(names)
    assert len(names) == len(set(names))
    module = importlib.import_module(module_name(path))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    "line", ["import service.app", "from ..service import db", "import_module('service.cli.main')"]
)
def test_the_import_check_sees_every_way_to_import(line: str) -> None:
    inside = REPOSITORY / "lars_agent" / "store" / "x.py"
    source = line if ".." not in line else line.replace("..", "...")
    assert any(name.split(".")[0] == "service" for name in imports(inside, ast.parse(source)))
