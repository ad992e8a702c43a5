"""How Aegis is written, as far as a program can tell: layers, imports, exports, docstrings.

The sources are parsed, not imported, so a module that does not even import is judged too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from attrs import frozen

import aegis

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("actors", "transport", "ops")

LEAVES = (
    "aegis.errors",
    "aegis.contracts",
    "aegis._clock",
    "aegis._subjects",
    "aegis._trace",
)
"""Modules that everything may import, and that import nothing of ours but each other."""

PROTOCOL_CORE = (
    "aegis.actors._caller",
    "aegis.actors._claims",
    "aegis.actors._owner",
    "aegis.actors._record",
    "aegis.actors._sessions",
)
"""Modules that must be core. Any other that says "sans-I/O" in the first line of its
docstring is core too, and is held to the same rules."""

LAYERS: dict[str, tuple[set[str], set[str]]] = {
    # layer: (layers it may import, third-party packages it may import)
    "leaf": ({"leaf"}, {"attrs"}),
    "transport": (
        {"transport", "leaf"},
        {"attrs", "cattrs", "msgpack", "nats", "structlog"},
    ),
    # cronsim counts dates alone: it has no clock.
    "core": ({"core", "leaf"}, {"attrs", "cronsim"}),
    "actors": (
        {"actors", "core", "transport", "leaf"},
        {"attrs", "pykka", "structlog"},
    ),
    # What is left of aegis: the public interface, the launcher, the tools for tests.
    # uvloop is the launcher's choice of loop; OpenTelemetry is optional.
    "aegis": (
        {"aegis", "actors", "core", "transport", "leaf"},
        {"attrs", "opentelemetry", "structlog", "uvloop"},
    ),
    # The market-data service takes the public names of Aegis alone: see PUBLIC.
    "marketdata": (
        {"marketdata", "aegis", "transport", "leaf"},
        {"attrs", "cattrs", "msgpack", "prometheus_client", "structlog"},
    ),
    "ops": (
        {"ops", "marketdata", "aegis", "actors", "core", "transport", "leaf"},
        {
            "attrs",
            "cattrs",
            "litestar",  # with uvicorn, the extra `admin`
            "msgpack",
            "nats",  # `aegis bench` and `aegis doctor` measure against plain NATS
            "opentelemetry",
            "prometheus_client",
            "rich",
            "structlog",
            "textual",  # the extra `top`
            "typer",
            "uvicorn",
            "uvloop",
        },
    ),
}

PUBLIC = {"aegis", "aegis.contracts", "aegis.errors", "aegis.transport"}
"""All of Aegis that the market-data service may import: it is built as users build theirs."""

TYPED_BY_MARKETDATA = {"aegis._cluster", "aegis._blocking"}
"""They name the types of the market-data service, and load it only when it is asked for."""

IMPURE = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "nats",
    "os",
    "pathlib",
    "pykka",
    "queue",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "uvloop",
}
"""What the protocol core must not touch: I/O, time, chance and threads are its inputs."""

SLEEPERS = {"time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"}
POLL_HELPER = ROOT / "tests" / "support" / "poll.py"


@frozen
class Import:
    """One name that a module imports: from where, what, and on which line."""

    module: str
    name: str | None
    line: int
    for_types_only: bool


@frozen
class Source:
    """One parsed module of the package."""

    name: str
    path: Path
    is_package: bool
    tree: ast.Module

    @property
    def layer(self) -> str:
        """The row of ``LAYERS`` that this module belongs to."""
        if self.name in LEAVES:
            return "leaf"
        if self.name == "aegis.__main__":
            return "ops"
        part = self.name.split(".")[1] if "." in self.name else ""
        if part == "actors" and "sans-I/O" in first_line(self.tree):
            return "core"
        return part if part in (*LINKED, "marketdata") else "aegis"

    def imports(self) -> Iterator[Import]:
        """All imports, those inside functions and under TYPE_CHECKING included."""
        type_only = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, node.lineno, id(node) in type_only)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for alias in node.names:
                    yield Import(module, alias.name, node.lineno, id(node) in type_only)


def first_line(tree: ast.Module) -> str:
    """The first line of the module's docstring, or nothing."""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def sources() -> dict[str, Source]:
    """Every module of the package by its import name."""
    found: dict[str, Source] = {}
    for folder in ("aegis", *LINKED):
        for directory, folders, files in os.walk(ROOT / folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for file in sorted(files):
                if not file.endswith(".py"):
                    continue
                path = Path(directory, file)
                parts = list(path.relative_to(ROOT).with_suffix("").parts)
                if folder in LINKED:
                    parts.insert(0, "aegis")
                is_package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if is_package else parts)
                found[name] = Source(name, path, is_package, parse(path))
    return found


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Python files below these folders of the checkout."""
    return tuple(
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "__pycache__" not in path.parts
    )


def target(found: Import) -> str:
    """The module of ours that an import reaches: a submodule named in ``from``, or its source."""
    submodule = f"{found.module}.{found.name}"
    return submodule if submodule in sources() else found.module


def where(path: Path, line: int) -> str:
    """A place in the checkout, as editors read it."""
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_linked_folder_is_the_package_below_aegis() -> None:
    for name in LINKED:
        link = ROOT / "aegis" / name
        assert link.is_symlink(), f"aegis/{name} is no link: clone with core.symlinks=true"
        assert link.resolve() == ROOT / name
        assert not Path(os.readlink(link)).is_absolute()


def test_every_layer_imports_only_what_lies_below_it() -> None:
    wrong: list[str] = []
    for source in sources().values():
        layers, _ = LAYERS[source.layer]
        for found in source.imports():
            if found.module.partition(".")[0] != "aegis":
                continue
            reached = sources().get(target(found))
            types = {"marketdata"} if source.name in TYPED_BY_MARKETDATA else set[str]()
            if reached is None:
                wrong.append(f"{where(source.path, found.line)} imports no module: {found.module}")
            elif found.for_types_only and reached.layer in types:
                continue
            elif reached.layer not in layers and reached.name != source.name:
                wrong.append(
                    f"{where(source.path, found.line)} ({source.layer}) "
                    f"imports {reached.name} ({reached.layer})"
                )
    assert not wrong, "\n".join(wrong)


def test_every_layer_uses_only_its_third_party_packages() -> None:
    wrong: list[str] = []
    for source in sources().values():
        _, packages = LAYERS[source.layer]
        for found in source.imports():
            package = found.module.partition(".")[0]
            if package in sys.stdlib_module_names or package in {"aegis", ""}:
                continue
            if package not in packages:
                wrong.append(f"{where(source.path, found.line)} ({source.layer}) imports {package}")
    assert not wrong, "\n".join(wrong)


def test_protocol_core_says_that_it_is_sans_io() -> None:
    for name in PROTOCOL_CORE:
        assert sources()[name].layer == "core", f"{name}: the docstring does not say sans-I/O"


def test_protocol_core_knows_neither_io_nor_time_nor_chance() -> None:
    wrong = [
        f"{where(source.path, found.line)} imports {found.module}"
        for source in sources().values()
        if source.layer == "core"
        for found in source.imports()
        if not found.for_types_only and found.module.partition(".")[0] in IMPURE
    ]
    wrong += [
        f"{where(source.path, node.lineno)} is async"
        for source in sources().values()
        if source.layer == "core"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncWith | ast.AsyncFor)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_are_absolute() -> None:
    wrong = [
        where(source.path, found.line)
        for source in sources().values()
        for found in source.imports()
        if found.module.startswith(".")
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_name_the_defining_module_and_not_a_facade() -> None:
    # An __init__ is a facade itself; aegis/__main__ starts the command line.
    wrong = [
        f"{where(source.path, found.line)} takes {found.name} from {found.module}"
        for source in sources().values()
        if not source.is_package and source.layer != "marketdata"
        for found in source.imports()
        if (reached := sources().get(target(found))) is not None and reached.is_package
    ]
    assert not wrong, "\n".join(wrong)


def test_the_market_data_service_uses_public_names_alone() -> None:
    wrong = [
        f"{where(source.path, found.line)} imports {target(found)}"
        for source in sources().values()
        if source.layer == "marketdata"
        for found in source.imports()
        if (reached := sources().get(target(found))) is not None
        and reached.layer != "marketdata"
        and target(found) not in PUBLIC
    ]
    assert not wrong, "\n".join(wrong)


def test_names_come_from_the_module_that_defines_them() -> None:
    wrong: list[str] = []
    for source in sources().values():
        if source.is_package:
            continue
        for found in source.imports():
            reached = sources().get(found.module)
            if reached is None or found.name is None or target(found) != found.module:
                continue
            if found.name in (exported(reached.tree) or ()):
                continue
            if found.name in {name for name, _ in imported_names(reached.tree)}:
                wrong.append(
                    f"{where(source.path, found.line)}: "
                    f"{found.module} itself imports {found.name}"
                )
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_cycle() -> None:
    graph = {
        source.name: {
            target(found)
            for found in source.imports()
            if target(found) in sources()
            and not found.for_types_only
            and target(found) != source.name
            # An import inside a function is how a cycle is broken, where it must be.
            and found.line in {node.lineno for node in source.tree.body}
        }
        for source in sources().values()
        if not source.is_package
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "cycle: " + " -> ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for below in sorted(graph.get(name, ())):
            visit(below, (*path, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_nobody_imports_the_top_level_folders() -> None:
    wrong: list[str] = []
    for path in python_files("aegis", *LINKED, "tests", "examples"):
        source = Source(str(path), path, False, parse(path))
        wrong += [
            f"{where(path, found.line)} imports {found.module}"
            for found in source.imports()
            if found.module.partition(".")[0] in LINKED
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_launcher_and_ops_configure_logging() -> None:
    wrong = [
        where(source.path, node.lineno)
        for source in sources().values()
        if source.layer not in {"aegis", "ops"}
        and source.name != "aegis.marketdata._gateway_process"  # launched by itself
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"structlog.configure", "logging.basicConfig"}
    ]
    assert not wrong, "\n".join(wrong)


def imported_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names bound by imports at the top of a module, but for ``__future__``."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                yield alias.asname or alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], node.lineno


def exported(tree: ast.Module) -> list[str] | None:
    """The literal ``__all__`` of a module, or None where it has none."""
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(name, ast.Name) and name.id == "__all__" for name in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            names: list[str] = ast.literal_eval(node.value)
            return list(names)
    return None


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each by name: the order that ruff keeps."""
    group = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return group, name


@pytest.mark.parametrize("name", [name for name, source in sources().items() if source.is_package])
def test_all_of_a_package_is_complete_and_sorted(name: str) -> None:
    tree = sources()[name].tree
    # What a package imports from elsewhere it needs itself; what it imports from us, also
    # for type checkers alone, it exports.
    public = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aegis")
        for alias in node.names
    }
    public |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    }
    public |= {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    names = exported(tree)
    if names is None:
        assert not public, f"{name} has no __all__, but binds {sorted(public)}"
        return
    assert public == {bound for bound in names if not bound.startswith("__")}
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=export_order)


def test_every_lazy_export_is_what_the_type_checkers_see() -> None:
    tree = sources()["aegis"].tree
    declared = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aegis.")
        for alias in node.names
    }
    assert vars(aegis)["_HOME"] == declared
    for name in declared:
        assert getattr(aegis, name).__name__ == name


def test_packages_only_export() -> None:
    wrong = [
        where(source.path, node.lineno)
        for source in sources().values()
        if source.is_package
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        # Lazy exports are re-exports too.
        and not node.name.startswith("__")
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_class_and_function_that_is_public_has_a_docstring() -> None:
    wrong: list[str] = []
    for source in sources().values():
        if not ast.get_docstring(source.tree):
            wrong.append(where(source.path, 1))
        for node in source.tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not any("overload" in ast.unparse(mark) for mark in node.decorator_list)
                and not ast.get_docstring(node)
            ):
                wrong.append(f"{where(source.path, node.lineno)} {node.name}")
    assert not wrong, "\n".join(wrong)


def facade() -> ModuleType:
    """The public interface, imported."""
    return importlib.import_module("aegis")


def test_every_method_of_the_public_interface_has_a_docstring() -> None:
    aegis = facade()
    wrong: list[str] = []
    for exported_name in getattr(aegis, "__all__", []):
        exported_object: object = getattr(aegis, exported_name)
        if not inspect.isclass(exported_object):
            continue
        for name, member in vars(exported_object).items():
            if name.startswith("_") or not (inspect.isfunction(member) or is_property(member)):
                continue
            # getdoc finds the docstring of the method that this one overrides.
            if not inspect.getdoc(getattr(exported_object, name)):
                wrong.append(f"aegis.{exported_name}.{name}")
    assert not wrong, "\n".join(wrong)


def is_property(member: object) -> bool:
    """Whether this is a property or a class or static method."""
    return isinstance(member, property | classmethod | staticmethod)


def test_tests_do_not_sleep() -> None:
    wrong: list[str] = []
    for path in python_files("tests"):
        if path == POLL_HELPER:
            continue
        tree = parse(path)
        bare = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if bare.get(called, called) not in SLEEPERS:
                continue
            # asyncio.sleep(0) takes no time: it lets the loop go round once.
            if [ast.unparse(argument) for argument in node.args] != ["0"]:
                wrong.append(where(path, node.lineno))
    assert not wrong, "wait for an event, the clock or tests/support/poll.py:\n" + "\n".join(wrong)


def test_no_module_is_named_like_a_drawer() -> None:
    drawers = re.compile(r"^_?(utils?|helpers?|misc|common|stuff|tools?)$")
    wrong = [name for name in sources() if drawers.match(name.rpartition(".")[2])]
    assert not wrong, wrong


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git knows, or all but the hidden ones where there is no repository."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return tuple(ROOT / name.decode() for name in listed.stdout.split(b"\0") if name)
    return tuple(
        path
        for path in ROOT.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    )


def test_every_symbolic_link_stays_in_the_tree_and_leads_somewhere() -> None:
    for path in tracked():
        if path.is_symlink():
            assert path.exists(), f"{path.relative_to(ROOT)} leads nowhere"
            assert path.resolve().is_relative_to(ROOT), path.relative_to(ROOT)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get where it is shown."""
    headings = re.findall(r"^#+ +(.+?)\s*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


def test_every_link_of_the_documents_resolves() -> None:
    wrong: list[str] = []
    for page in tracked():
        if page.suffix != ".md" or not page.is_file():
            continue
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            linked = (page.parent / file).resolve() if file else page
            if not linked.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {link}")
            elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
                wrong.append(f"{page.relative_to(ROOT)}: {link}: no such heading")
    assert not wrong, "\n".join(wrong)


def test_every_name_of_a_test_is_a_sentence() -> None:
    wrong: list[str] = []
    for path in python_files("tests"):
        for node in ast.walk(parse(path)):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name.startswith("test_")
                and node.name.count("_") < 3
            ):
                wrong.append(f"{where(path, node.lineno)} {node.name}")
    assert not wrong, "\n".join(wrong)
