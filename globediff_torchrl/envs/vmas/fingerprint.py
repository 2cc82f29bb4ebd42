"""Whether two runs saw the same world: a hash of what a scenario is made of."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from vmas.simulator.scenario import BaseScenario

PINNED = ("globediff_torchrl", "vmas")  # what their classes use changes with their versions alone


def fingerprint(kind: type[BaseScenario], kwargs: dict[str, Any]) -> str | None:
    """A short hash of the statements of a scenario and of what it inherits; None where there is nothing to hash.

    Also of ``kwargs``, the arguments of a preset of one's own, and of a class that is none of this package's or VMAS's
    own of the functions, classes and constants of its file that it uses; not of what that file imports. Comments,
    docstrings and line breaks change no world, and leave it as it is. A console and VMAS's stock scenarios have no
    source.
    """
    classes = kind.__mro__[: kind.__mro__.index(BaseScenario)]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(one))) for one in classes]
        parts = [_statements(tree) for tree in trees]
        for one, tree in zip(classes, trees):
            if one.__module__.partition(".")[0] not in PINNED:
                parts += [_statements(node) for node in _used(tree, one.__module__)]
    except (OSError, TypeError, SyntaxError):
        parts = []
    if kwargs:
        parts.append(json.dumps(kwargs, sort_keys=True, default=lambda value: type(value).__qualname__))
    return None if not parts else hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _used(tree: ast.AST, module: str) -> Iterator[ast.AST]:
    """The definitions at the top of a module that the tree uses, and those that they use."""
    definitions: dict[str, list[ast.AST]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        for name in _defined(node):
            definitions.setdefault(name, []).append(node)
    waiting, seen = [tree], set()
    for part in waiting:
        for name in (node.id for node in ast.walk(part) if isinstance(node, ast.Name)):
            if name in definitions and name not in seen:
                seen.add(name)
                waiting += definitions[name]
                yield from definitions[name]


def _defined(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)]


def _statements(tree: ast.AST) -> str:
    """The source without comments and docstrings, in one layout."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)
