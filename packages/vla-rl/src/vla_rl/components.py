"""Objects named in a config by the dotted path of what makes them."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any


def build(component: Mapping[str, Any], name: str) -> Any:
    """Import and call what a config entry names.

    Args:
        component: ``class_path``, the dotted path of a class, function or class method, and
            ``init_args``, its keyword arguments, which may be left out; an argument that has a
            ``class_path`` itself is built first.
        name: What the config calls it, for error messages.

    Raises:
        ValueError: If the entry has other keys, cannot be imported, or does not take an argument.
        TypeError: If it names something that cannot be called.
    """
    unknown = sorted(set(component) - {"class_path", "init_args"})
    if unknown or "class_path" not in component:
        raise ValueError(
            f"Expected `{name}` to have `class_path` and perhaps `init_args`, got "
            f"{sorted(component)}."
        )
    path = component["class_path"]
    arguments = {
        key: build(value, f"{name}.{key}") if _is_component(value) else value
        for key, value in (component.get("init_args") or {}).items()
    }
    target = _find(path, name)
    if not callable(target):
        raise TypeError(f"Expected `{name}.class_path` to be callable, got {path!r}: {target!r}.")
    signature = inspect.signature(target)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"Expected `{name}.init_args` to fit {path}{signature}, got {arguments}: {error}."
        ) from error
    return target(**arguments)


def accepts(component: Mapping[str, Any], name: str, argument: str) -> bool:
    """Return whether what a config entry names takes an argument of that name.

    Raises:
        ValueError: If the entry names nothing that can be imported.
    """
    return argument in inspect.signature(_find(component["class_path"], name)).parameters


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _find(path: str, name: str) -> Any:
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        module_name = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # The path may go on inside a module; a module that lacks another one is an error.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            continue
        for attribute in parts[end:]:
            if not hasattr(found, attribute):
                raise ValueError(
                    f"Expected `{name}.class_path` to name something, got {path!r}: "
                    f"{module_name} has no {attribute!r}."
                )
            found = getattr(found, attribute)
        return found
    raise ValueError(f"Expected an importable `{name}.class_path`, got {path!r}.")
