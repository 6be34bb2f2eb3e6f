"""The public API of each package, pinned: change the golden file and the version on purpose.

``UPDATE_GOLDEN=1 pytest integration_tests/test_public_api.py`` rewrites the files.
"""

import importlib
import inspect
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
PACKAGES = ["bench_adapters", "progress_labels", "value_models", "vla_rl"]


def snapshot(package: str) -> dict[str, Any]:
    """Return the signature of every public name, by module."""
    root = importlib.import_module(package)
    names = [package] + [
        info.name
        for info in pkgutil.walk_packages(root.__path__, f"{package}.")
        if not any(part.startswith("_") for part in info.name.split("."))
    ]
    api = {name: describe_module(importlib.import_module(name)) for name in names}
    return {
        "version": root.__version__,
        "modules": {name: api[name] for name in names if api[name]},
    }


def describe_module(module: Any) -> dict[str, Any]:
    """Describe what a module defines itself, or lists in ``__all__``."""
    exported = getattr(module, "__all__", None)
    return {
        name: describe(value)
        for name, value in sorted(vars(module).items())
        if (name in exported if exported is not None else not name.startswith("_"))
        and (inspect.isclass(value) or inspect.isfunction(value))
        and (exported is not None or value.__module__ == module.__name__)
    }


def describe(value: Any) -> Any:
    """Return a signature; of a class, those of its public methods too."""
    if inspect.isfunction(value):
        return parameters(value)
    methods = {
        name: parameters(member)
        for name, member in sorted(vars(value).items())
        if (not name.startswith("_") or name == "__init__") and inspect.isfunction(member)
    }
    fields = sorted(name for name in vars(value).get("__annotations__", {}) if name[0] != "_")
    return {key: item for key, item in (("methods", methods), ("fields", fields)) if item}


def parameters(function: Any) -> list[str]:
    """Return parameter names in order; ``*`` before keyword-only ones, ``=`` where optional."""
    marks: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    listed, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            listed.append("*")
            keyword_only = True
        optional = "=" if parameter.default is not inspect.Parameter.empty else ""
        listed.append(f"{marks.get(parameter.kind, '')}{parameter.name}{optional}")
    return listed


@pytest.mark.parametrize("package", PACKAGES)
def test_public_api_is_the_golden_one(package):
    path = GOLDEN / f"{package}.json"
    found = snapshot(package)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert found == golden, (
        f"the public API of {package} changed; if that is meant, raise its version and "
        "run this test with UPDATE_GOLDEN=1"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package):
    module = importlib.import_module(package)
    bare = [name for name in module.__all__ if not inspect.getdoc(getattr(module, name))]
    assert not bare
