"""The package as a whole: the direction of imports, and that every option is documented."""

import ast
import importlib
import inspect
import pathlib
import re

import pytest

import keras_robust

ROOT = pathlib.Path(keras_robust.__file__).parent
ORDER = [
    "core",
    "losses",
    "layers",
    "optimizers",
    "attacks",
    "architectures",
    "data",
    "methods",
    "distribution",
    "reports",
    "evaluation",
    "export",
    "training",
    "tools",
]
"""A module imports only from packages above its own; `version` and `_imports` are free to all."""

MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py" and "keras_robust" not in path.relative_to(ROOT).parts
)


def imported_names(path: pathlib.Path) -> set[str]:
    """Returns what `path` imports, as dotted names; `from a import b` counts as a.b. Function bodies too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def package_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_from_packages_above(path):
    own = package_of(path)
    for name in imported_names(path):
        first, *rest = name.split(".")
        if first != "keras_robust":
            continue
        assert rest, f"{path} imports the whole of keras_robust"
        imported = rest[0]
        if imported in (own, "version", "_imports") or own == "version":
            continue
        assert imported in ORDER, f"{path} imports {name}, of no known package"
        assert ORDER.index(imported) < ORDER.index(own), f"{path} of {own} imports {name}"


def test_every_package_has_its_place():
    assert {package_of(path) for path in MODULES} <= {*ORDER, "version", "_imports"}


def test_configs_hold_data_only():
    configs = sorted((ROOT.parent / "configs").rglob("*.py"))
    assert len(configs) > 10
    for path in configs:
        assert not [
            name for name in imported_names(path) if name.split(".")[0] in ("keras_robust", "keras", "tensorflow")
        ]


def public_packages() -> list[str]:
    found = {package_of(path) for path in MODULES} - {"version"}
    return ["keras_robust", *(f"keras_robust.{name}" for name in sorted(found))]


def public_objects() -> dict[str, object]:
    """Returns every name of every __all__, by its dotted name."""
    objects = {}
    for package in public_packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            objects[f"{package}.{name}"] = getattr(module, name)
    return objects


OBJECTS = {name: thing for name, thing in public_objects().items() if not name.endswith("__version__")}


def parameters(thing: object) -> list[str]:
    """Returns the parameters that a caller passes by name, of a class or function."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    listed = inspect.signature(thing).parameters.values()
    return [p.name for p in listed if p.kind in kinds and p.name != "self"]


CALLABLES = {name: thing for name, thing in OBJECTS.items() if inspect.isclass(thing) or inspect.isfunction(thing)}


@pytest.mark.parametrize("name", CALLABLES)
def test_options_are_documented(name):
    """Where there are three parameters or more, the docstring has a line for each, or says whose they are."""
    names, docstring = parameters(CALLABLES[name]), CALLABLES[name].__doc__
    if len(names) < 3 or re.search("arguments (as|are those) of", docstring):
        return
    missing = [parameter for parameter in names if not re.search(rf"^\s+{parameter}: ", docstring, re.MULTILINE)]
    assert not missing, f"{name} does not document {missing}"
