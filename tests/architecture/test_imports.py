"""Who may import whom. The rules are read from the source with `ast`; nothing is imported to check them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "server")

MAY_IMPORT_LATER = {
    "engine": "loading a model is the only thing that needs torch",
    "server.cli": "each command brings only what it needs",
    "engine.quant.i_quants": "the tables of a few formats come with a whole package of tools",
}
TORCH_FREE = (
    "engine.cache",
    "engine.scheduler",
    "engine.plan",
    "engine.types",
    "engine.config",
    "engine.errors",
    "engine.client",
    "engine.core",
    "engine.async_engine",
    "engine.model.gguf_config",
)
STANDARD_LIBRARY_ONLY = (
    "engine.errors",
    "engine.types",
    "engine.config",
    "engine.plan",
    "engine.quant.formats",
    "engine.weights.gguf_file",
    "engine.weights.gguf_metadata",
    "engine.weights.naming",
)
HEAVY = ("torch", "transformers", "triton")
PUBLIC_ENGINE = {"engine", "engine.errors", "engine.types", "engine.client", "engine.config"}

# The parts that decide what is computed when; those that compute know nothing of them.
RUNNING = ("engine.cache", "engine.scheduler", "engine.runner", "engine.plan", "engine.core", "engine.async_engine")

# Whoever is on the left knows nothing of what is on the right.
FORBIDDEN = (
    ("engine", ("server",)),
    ("server", HEAVY),
    ("server.chat", ("fastapi", "starlette", "uvicorn", "sse_starlette", "server.dialects", "server.app")),
    ("engine.cache", ("engine.scheduler", "engine.core", "engine.runner", "engine.plan")),
    ("engine.scheduler", ("engine.runner", "engine.core", "engine.model")),
    ("engine.core", ("engine.runner", "engine.model", "engine.async_engine")),
    ("engine.async_engine", ("engine.runner", "engine.model")),
    *((part, RUNNING) for part in ("engine.layers", "engine.kernels", "engine.model")),
    *((part, RUNNING) for part in ("engine.weights", "engine.quant")),
    ("engine.quant", ("engine.weights", "engine.layers", "engine.kernels", "engine.model")),
    ("engine.weights", ("engine.layers", "engine.kernels", "engine.model.qwen3_next")),
    ("engine.layers", ("engine.kernels", "engine.model.qwen3_next")),
    ("engine.kernels", ("engine.model",)),
    ("engine.runner", ("engine.scheduler", "engine.cache", "engine.core", "engine.async_engine")),
)


class When(Enum):
    """At which moment an import statement is carried out."""

    LOADING = "when the module is loaded"
    LATER = "in a function"
    TYPING = "by the type checker only"


@dataclass(frozen=True)
class Import:
    source: str
    target: str
    when: When
    line: int

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}, imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def targets(statement: ast.Import | ast.ImportFrom, source: str, known: set[str], is_package: bool) -> Iterator[str]:
    """The modules a statement names; of `from package import name`, the submodule where there is one."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    base = statement.module or ""
    if statement.level:
        package = source.split(".")[: None if is_package and statement.level == 1 else -statement.level + is_package]
        base = ".".join([*package, base]).rstrip(".")
    for alias in statement.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in known else base


def read_imports(source: str, text: str, known: set[str], is_package: bool = False) -> list[Import]:
    """All import statements of a module's text."""
    found: list[Import] = []

    def visit(node: ast.AST, when: When) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(Import(source, t, when, node.lineno) for t in targets(node, source, known, is_package))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for guarded in node.body:
                visit(guarded, When.TYPING)
            for otherwise in node.orelse:
                visit(otherwise, when)
        else:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            inner = When.LATER if in_function and when is When.LOADING else when
            for child in ast.iter_child_nodes(node):
                visit(child, inner)

    visit(ast.parse(text), When.LOADING)
    return found


@cache
def imports() -> tuple[Import, ...]:
    """All imports of all our modules."""
    known = set(modules())
    return tuple(
        i
        for name, path in modules().items()
        for i in read_imports(name, path.read_text(encoding="utf-8"), known, path.name == "__init__.py")
    )


def within(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def report(found: list[Import]) -> str:
    return "\n".join(str(i) for i in found)


@pytest.mark.parametrize(("part", "forbidden"), FORBIDDEN, ids=[f"{part}-{other[0]}" for part, other in FORBIDDEN])
def test_what_each_part_may_not_know(part: str, forbidden: tuple[str, ...]) -> None:
    found = [i for i in imports() if within(i.source, part) and within(i.target, *forbidden)]
    assert not found, report(found)


def test_the_server_uses_only_the_public_names_of_the_engine() -> None:
    found = [
        i
        for i in imports()
        if within(i.source, "server") and within(i.target, "engine") and i.target not in PUBLIC_ENGINE
    ]
    assert not found, report(found)


def test_dialects_do_not_know_each_other() -> None:
    def dialect(module: str) -> str | None:
        return module.split(".")[2] if within(module, "server.dialects") and module.count(".") >= 2 else None

    found = [i for i in imports() if dialect(i.source) and dialect(i.target) and dialect(i.source) != dialect(i.target)]
    assert not found, report(found)


def test_imports_in_functions_are_rare_and_have_a_reason() -> None:
    found = [i for i in imports() if i.when is When.LATER and i.source not in MAY_IMPORT_LATER]
    assert not found, report(found)


def test_the_values_that_cross_the_boundary_need_only_the_standard_library() -> None:
    found = [
        i
        for i in imports()
        if i.source in STANDARD_LIBRARY_ONLY
        and not within(i.target, *STANDARD_LIBRARY_ONLY)
        and i.target.split(".")[0] not in sys.stdlib_module_names
    ]
    assert not found, report(found)


def loaded_with(module: str) -> dict[str, str]:
    """What importing a module loads, each with the module that asks for it; parent packages included."""
    edges: dict[str, set[str]] = {}
    for i in imports():
        if i.when is When.LOADING:
            edges.setdefault(i.source, set()).add(i.target)
    asked_by, queue = {module: module}, [module]
    while queue:
        name = queue.pop()
        parents = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}
        for target in edges.get(name, set()) | parents:
            if target not in asked_by:
                asked_by[target] = name
                queue.append(target)
    return asked_by


def torch_free_modules() -> list[str]:
    return [m for m in modules() if m == "engine" or within(m, *TORCH_FREE, "server")]


@pytest.mark.parametrize("module", torch_free_modules())
def test_no_torch_even_by_way_of_others(module: str) -> None:
    found = {target: by for target, by in loaded_with(module).items() if within(target, *HEAVY)}
    assert not found, f"importing {module} loads {found}"


def test_no_cycles() -> None:
    edges: dict[str, list[str]] = {m: [] for m in modules()}
    for i in imports():
        if i.when is When.LOADING and i.target in edges:
            edges[i.source].append(i.target)
    finished: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for target in edges[module]:
                walk(target, (*path, module))
            finished.add(module)

    for module in edges:
        walk(module, ())


def test_importing_engine_and_server_does_not_import_torch() -> None:
    torch_free = [m for m in modules() if m == "engine" or within(m, *TORCH_FREE)]
    code = (
        f"import sys; import {', '.join(torch_free)}, server; "
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)), 'server' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_every_rule_speaks_of_something_that_exists() -> None:
    named = {*TORCH_FREE, *MAY_IMPORT_LATER, *PUBLIC_ENGINE, *(part for part, _ in FORBIDDEN)}
    assert named <= set(modules())


SAMPLE = """
import os, torch.nn
from typing import TYPE_CHECKING
from . import sibling
from .. import plan
from ..cache import pool as p
from engine.cache.pool import IdPool
if TYPE_CHECKING:
    from engine.runner import runner
else:
    import json
class C:
    import abc
    def f(self):
        from server import app
"""


def test_the_reader_of_imports() -> None:
    known = {"engine.plan", "engine.model.sibling", "engine.cache", "engine.cache.pool"}
    found = {(i.target, i.when) for i in read_imports("engine.model.qwen", SAMPLE, known)}
    assert found == {
        ("os", When.LOADING),
        ("torch.nn", When.LOADING),
        ("typing", When.LOADING),
        ("engine.model.sibling", When.LOADING),
        ("engine.plan", When.LOADING),
        ("engine.cache.pool", When.LOADING),
        ("engine.runner", When.TYPING),
        ("json", When.LOADING),
        ("abc", When.LOADING),
        ("server", When.LATER),
    }
    package = {
        i.target for i in read_imports("engine.model", "from . import sibling\nfrom ..plan import X", known, True)
    }
    assert package == {"engine.model.sibling", "engine.plan"}
