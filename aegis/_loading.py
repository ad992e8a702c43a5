"""Loading the class of a service from ``file.py:Class`` or ``module:Class``."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from aegis.errors import ConfigurationError

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor

__all__ = ["load_actor_class"]


def load_actor_class(target: str) -> type[AegisActor]:
    """Return the class that ``target`` names, checked to be one that can be served.

    ``target`` is ``file.py:Class`` or ``module:Class``; without ``:Class`` it is the only
    subclass of `AegisActor` that the file or module defines itself. A file is loaded with
    its folder on the import path, as if it were run as a script; one that lies in a package
    is loaded as a module of that package. A file is loaded once, however often it is named.

    Raises:
        ConfigurationError: there is no such file, module or class, it cannot be loaded, or
            the class cannot be served; one line says which and what to do.
    """
    from aegis.actors._handlers import describe

    place, _, name = target.partition(":")
    if not place or (":" in target and not name):
        raise ConfigurationError(
            f"{target!r} names no class; write file.py:Class or module:Class", target=target
        )
    module = _load_file(place) if _is_file(place) else _load_module(place)
    cls = _find_class(module, place, name) if name else _only_class(module, place)
    describe(cls)
    return cls


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


# -- modules ------------------------------------------------------------------------------


def _load_file(place: str) -> ModuleType:
    path = Path(place).expanduser()
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{place} does not exist; name a Python file") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{place} is a folder; name a Python file in it") from None
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be read: {error.strerror}") from error
    path = path.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path) and module.__name__ != "__main__":
            return module
    try:
        ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise _load_error(place, path, error) from error
    root, dotted = _package_of(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    if _is_importable(dotted, path):
        return _import(dotted, place, path)
    return _execute(f"_aegis_{sha256(bytes(path)).hexdigest()[:12]}_{path.stem}", place, path)


def _package_of(path: Path) -> tuple[Path, str]:
    """Return the folder that must be on the import path, and the module's name from there."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _is_importable(dotted: str, path: Path) -> bool:
    """Whether importing ``dotted`` would load this very file, and no other of that name."""
    if not all(part.isidentifier() for part in dotted.split(".")):
        return False
    first, _, rest = dotted.partition(".")
    try:
        top = importlib.util.find_spec(first)
    except (ImportError, ValueError, AttributeError):
        return False
    if top is None or top.origin is None:
        return False
    expected = path
    for _ in range(dotted.count(".")):
        expected = expected.parent
    expected = expected / "__init__.py" if rest else path
    return Path(top.origin).resolve() == expected.resolve()


def _execute(name: str, place: str, path: Path) -> ModuleType:
    """Load a file under a name of its own: its own name belongs to another module."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{place} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # type hints are looked up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _load_error(place, path, error) from error
    return module


def _load_module(place: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise ConfigurationError(
            f"{place!r} is neither a file nor a module; write file.py:Class or module:Class"
        )
    # As with `python -m`: the working folder comes first.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return _import(place, place, None)


def _import(dotted: str, place: str, path: Path | None) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path is None and (dotted == missing or dotted.startswith(f"{missing}.")):
            advice = "name a service as file.py:Class or module:Class"
            if Path(f"{place}.py").is_file():
                advice = f"for the file write {place}.py"
            raise ConfigurationError(f"there is no module {place!r}; {advice}") from error
        raise _load_error(place, path, error) from error
    except (Exception, SystemExit) as error:
        raise _load_error(place, path, error) from error


def _load_error(place: str, path: Path | None, error: BaseException) -> ConfigurationError:
    """Return one line that says where loading failed and why."""
    file, line = _place_of(error, path)
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        problem = f"syntax error: {error.msg}"
    else:
        problem = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if file and path is not None and Path(file).resolve() == path:
        file = place
    where = f"{file} line {line}" if file and line else place
    hint = f" (loaded for {place})" if file and file != place else ""
    return ConfigurationError(f"{where}{hint}: {problem}", place=place)


def _place_of(error: BaseException, path: Path | None) -> tuple[str, int | None]:
    """Return the file and the line to look at, if they can be told.

    The last line of the user's own file says more than one deep in a library.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    for step in reversed(traceback.extract_tb(error.__traceback__)):
        if path is None and not step.filename.startswith("<frozen "):
            return step.filename, step.lineno
        if path is not None and Path(step.filename).resolve() == path:
            return step.filename, step.lineno
    return "", None


# -- classes ------------------------------------------------------------------------------


def _find_class(module: ModuleType, place: str, name: str) -> type[AegisActor]:
    from aegis.actors._actor import AegisActor

    found: Any = getattr(module, name, None)
    candidates = _defined(module)
    if found is None:
        near = difflib.get_close_matches(name, [cls.__name__ for cls in candidates], n=1)
        if near:
            hint = f"; did you mean {place}:{near[0]}?"
        elif candidates:
            hint = "; it has " + ", ".join(cls.__name__ for cls in candidates)
        else:
            hint = "; write a class that subclasses aegis.AegisActor"
        raise ConfigurationError(f"{place} has no class {name!r}{hint}", place=place)
    if not isinstance(found, type):
        kind = type(found).__name__
        raise ConfigurationError(
            f"{place}:{name} is a {kind}, not a class; name a subclass of aegis.AegisActor"
        )
    if not issubclass(found, AegisActor) or found is AegisActor:
        raise ConfigurationError(
            f"{place}:{name} is no actor; let it subclass aegis.AegisActor", place=place
        )
    return found


def _only_class(module: ModuleType, place: str) -> type[AegisActor]:
    candidates = _defined(module)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ConfigurationError(
            f"{place} defines no actor; write a class that subclasses aegis.AegisActor", place=place
        )
    names = " or ".join(f"{place}:{cls.__name__}" for cls in candidates)
    raise ConfigurationError(f"{place} defines several actors; write {names}", place=place)


def _defined(module: ModuleType) -> list[type[AegisActor]]:
    """Return the actor classes that ``module`` defines itself and that are not private."""
    from aegis.actors._actor import AegisActor

    found: dict[str, type[AegisActor]] = {}
    for name, value in vars(module).items():
        if not isinstance(value, type) or name.startswith("_") or value is AegisActor:
            continue
        cls = cast("type[Any]", value)
        if issubclass(cls, AegisActor) and cls.__module__ == module.__name__:
            found.setdefault(cls.__qualname__, cls)
    return list(found.values())
