"""Who may import whom, and what files may be called."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "data", "losses", "utils")
MAY_IMPORT = {"models": {"models"}, "data": {"data"}, "losses": {"losses"}, "utils": set(PACKAGES)}
ERRANDS = sorted(path.parent.name for path in (ROOT / "utils").glob("*/__init__.py"))
ERRANDS_MAY_IMPORT = {"benchmarks": {"costs", "training"}}
ENTRY_POINTS = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted([*ROOT.glob("*.py"), *MODULES])
# Functions that may be called at a module's top level to define a constant; so may classes.
CONSTANT_FUNCTIONS = {
    *("dict.fromkeys", "integer", "Path(__file__).resolve", "re.compile", "timedelta"),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


def imported_errands(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported_modules(path)]
    return {name[1] for name in parts if len(name) > 1 and name[0] == "utils"} & set(ERRANDS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_packages_import_only_what_they_may(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported_packages(path) & set(PACKAGES) <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", sorted((ROOT / "utils").glob("*.py")), ids=name_of)
def test_foundations_import_no_errand(path):
    assert not imported_errands(path)


@pytest.mark.parametrize("path", sorted((ROOT / "utils").glob("*/*.py")), ids=name_of)
def test_errands_do_not_import_each_other(path):
    errand = path.parent.name
    assert imported_errands(path) <= {errand} | ERRANDS_MAY_IMPORT.get(errand, set())


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nobody_imports_an_entry_point(path):
    assert not imported_packages(path) & set(ENTRY_POINTS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_bears_the_name_of_a_standard_library_module(path):
    assert path.stem not in sys.stdlib_module_names


def work_on_import(source: str) -> list[str]:
    """Return the statements of a module that do more than define something."""
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    work = []
    for node in ast.parse(source).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main_guard = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        if isinstance(node, definitions) or is_docstring or is_main_guard:
            continue
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            work.append(ast.unparse(node))
            continue
        calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
        classes = {call for call in calls if call.split(".")[-1][0].isupper()}
        methods_of_literals = {call for call in calls if call.startswith(("'", '"'))}
        if set(calls) - classes - methods_of_literals - CONSTANT_FUNCTIONS:
            work.append(ast.unparse(node))
    return work


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_happens_on_import(path):
    assert work_on_import(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "is_work"),
    [
        ("X = work()", True),
        ("X: int = module.work(1)", True),
        ("X = [work(n) for n in range(3)]", True),
        ("work()", True),
        ("for n in (1, 2):\n    X = n", True),
        ("X = Path('a') / 'b'", False),
        ("X = ','.join(('a', 'b'))", False),
        ("X = re.compile('a')", False),
        ("def work():\n    return other()", False),
    ],
)
def test_work_on_import_is_recognised(source, is_work):
    assert bool(work_on_import(source)) == is_work


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_and_public_function_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stem != "__init__"], ids=name_of)
def test_every_module_has_its_own_test_file(path):
    assert (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.stem}.py")).is_file()


def test_every_entry_point_is_imported_without_modules_that_only_linux_has():
    code = "import sys; sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'termios']))\n"
    code += "\n".join(f"import {name}" for name in ENTRY_POINTS)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
