"""Python values to plain ones and back, by type hints: what msgpack can carry.

`structurer` and `unstructurer` compile one function for a type, once; the functions
are what a hot path calls. Structuring is strict: a bool is no int, a number is no
text, a text is no list. What does not fit is an `InvalidRequest` that names the
field.

=====================================  ==========================================
type                                   plain form
=====================================  ==========================================
None, bool, int, float, str, bytes     itself
Decimal                                text; integers and floats are accepted
datetime, date, time                   ISO 8601 text
timedelta                              seconds, as a float
UUID                                   text
enums, Literal                         the value
list, tuple, set, frozenset, deque     array
dict                                   map
attrs class, dataclass, TypedDict      map of its fields
unions of such classes                 the map and ``"$type"``, the class's name
=====================================  ==========================================
"""

# Values from the wire have no type yet: this is the one place that gives them one.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from typing import (
    Any,
    Final,
    Literal,
    NewType,
    TypeAliasType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from uuid import UUID

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from aegis.errors import InvalidRequest

__all__ = ["TYPE_TAG", "structurer", "to_plain", "unstructurer"]

TYPE_TAG: Final = "$type"
"""The key that names the class where a hint allows several classes."""

_MAX_SHOWN: Final = 60

type _Structure = Callable[[Any, Any], Any]
type _Unstructure = Callable[[Any], Any]


class _Mismatch(ValueError):
    """A value does not fit its type; ``path`` leads to it from the inside out."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: list[str] = []


def structurer(hint: Any, *, field: str = "") -> Callable[[Any], Any]:
    """Return a function that turns a plain value into one of type ``hint``.

    ``field`` is the name under which a mismatch is reported, as in
    ``params.amount``; parts of the value are named below it
    (``params.order.legs[2].price``).

    Raises:
        TypeError: no value of this type can cross the wire. The function raises
            `InvalidRequest`, with the field's path, for a value that does not fit.
    """
    if hint is Any or hint is object:
        return _identity
    hook: _Structure = _hook_for(hint)

    def structure(value: Any) -> Any:
        try:
            return hook(value, hint)
        except Exception as error:
            raise _invalid(error, field) from error

    return structure


def unstructurer(hint: Any) -> Callable[[Any], Any]:
    """Return a function that turns a value of type ``hint`` into a plain one.

    Raises:
        TypeError: no value of this type can cross the wire. The function raises
            `InvalidRequest` for a value that has no plain form.
    """
    hook = _unhook_for(hint)
    if hook is _identity:
        return _identity

    def unstructure(value: Any) -> Any:
        try:
            return hook(value)
        except Exception as error:
            raise _invalid(error, "") from error

    return unstructure


def to_plain(value: Any) -> Any:
    """Return ``value`` in plain form, by its own class; containers recursively.

    Raises:
        TypeError: the class has no form on the wire.
    """
    if type(value) in _PRIMITIVES:
        return value
    return _unhook_at_runtime(type(value))(value)


def _identity(value: Any) -> Any:
    return value


# -- mismatches -------------------------------------------------------------------


def _invalid(error: BaseException, field: str) -> InvalidRequest:
    path, message = _locate(error)
    full = field
    for step in path:
        full += step if step.startswith("[") or not full else f".{step}"
    return InvalidRequest(f"{full}: {message}" if full else message, field=full)


def _locate(error: BaseException) -> tuple[list[str], str]:
    """Return the path to the first thing that is wrong, and what it is."""
    if isinstance(error, BaseValidationError):
        first = error.exceptions[0]
        inner_path, message = _locate(first)
        return _notes(first) + inner_path, message
    if isinstance(error, _Mismatch):
        cause = error.__cause__
        if cause is not None:
            inner_path, message = _locate(cause)
            return error.path + inner_path, message
        return error.path, str(error)
    if isinstance(error, KeyError):
        return [], "is missing"
    if isinstance(error, ForbiddenExtraKeysError):
        return [], f"has unknown fields: {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, RecursionError):
        return [], "is nested too deep"
    if isinstance(error, InvalidRequest):
        return [str(error.facts["field"])] if error.facts.get("field") else [], error.message
    return [], (str(error) or type(error).__name__).splitlines()[0]


def _notes(error: BaseException) -> list[str]:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return [str(note.name)]
        if isinstance(note, IterableValidationNote):
            return [f"[{note.index!r}]"]
    return []


def _at(step: str, cause: Exception) -> _Mismatch:
    mismatch = _Mismatch("")
    mismatch.path.append(step)
    mismatch.__cause__ = cause
    return mismatch


def _wrong(wanted: str, value: Any) -> _Mismatch:
    return _Mismatch(f"must be {wanted}, not {_show(value)}")


def _show(value: Any) -> str:
    names = {dict: "a map", list: "an array", tuple: "an array", type(None): "nothing"}
    if type(value) in names:
        return names[type(value)]
    try:
        text = repr(value)
    except Exception:
        text = type(value).__name__
    if len(text) > _MAX_SHOWN:
        text = text[: _MAX_SHOWN - 3] + "..."
    return f"{text} ({type(value).__name__})"


# -- single values ----------------------------------------------------------------


def _structure_none(value: Any, _: Any) -> None:
    if value is not None:
        raise _wrong("nothing", value)


def _structure_bool(value: Any, _: Any) -> bool:
    if type(value) is bool:
        return value
    raise _wrong("true or false", value)


def _structure_int(value: Any, _: Any) -> int:
    if type(value) is int:
        return value
    raise _wrong("an integer", value)


def _structure_float(value: Any, _: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    raise _wrong("a number", value)


def _structure_str(value: Any, _: Any) -> str:
    if type(value) is str:
        return value
    raise _wrong("text", value)


def _structure_bytes(value: Any, _: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise _wrong("bytes", value)


def _structure_decimal(value: Any, _: Any) -> Decimal:
    kind = type(value)
    try:
        if kind is str or kind is int:
            number = Decimal(value)
        elif kind is float:
            # The shortest text that reads back as the same float is what was meant.
            number = Decimal(repr(value))
        else:
            raise _wrong("a decimal number", value)
    except InvalidOperation:
        raise _wrong("a decimal number", value) from None
    if not number.is_finite():
        raise _wrong("a finite decimal number", value)
    return number


def _structure_datetime(value: Any, _: Any) -> datetime:
    return _from_text(value, datetime.fromisoformat, "a date and time in ISO 8601")


def _structure_date(value: Any, _: Any) -> date:
    return _from_text(value, date.fromisoformat, "a date in ISO 8601")


def _structure_time(value: Any, _: Any) -> time:
    return _from_text(value, time.fromisoformat, "a time in ISO 8601")


def _structure_uuid(value: Any, _: Any) -> UUID:
    return _from_text(value, UUID, "a UUID")


def _from_text[T](value: Any, parse: Callable[[str], T], wanted: str) -> T:
    if type(value) is str:
        try:
            return parse(value)
        except ValueError:
            pass
    raise _wrong(wanted, value)


def _structure_timedelta(value: Any, _: Any) -> timedelta:
    if type(value) is float or type(value) is int:
        try:
            return timedelta(seconds=value)
        except (ValueError, OverflowError):
            pass
    raise _wrong("a duration in seconds", value)


def _decimal_to_text(value: Decimal) -> str:
    # What cannot be read back must not be written: it would end in a journal.
    if not value.is_finite():
        raise _Mismatch(f"{value} is no finite decimal number")
    return str(value)


def _isoformat(value: datetime | date | time) -> str:
    return value.isoformat()


def _enum_value(value: Enum) -> Any:
    return to_plain(value.value)


_SINGLE_HOOKS: Final[dict[type, tuple[_Structure, _Unstructure]]] = {
    type(None): (_structure_none, _identity),
    bool: (_structure_bool, _identity),
    int: (_structure_int, _identity),
    float: (_structure_float, _identity),
    str: (_structure_str, _identity),
    bytes: (_structure_bytes, _identity),
    Decimal: (_structure_decimal, _decimal_to_text),
    datetime: (_structure_datetime, _isoformat),
    date: (_structure_date, _isoformat),
    time: (_structure_time, _isoformat),
    timedelta: (_structure_timedelta, timedelta.total_seconds),
    UUID: (_structure_uuid, str),
}

_PRIMITIVES: Final = frozenset({type(None), bool, int, float, str, bytes})


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _enum_structurer(enum: type[Enum]) -> _Structure:
    members: dict[tuple[type, Any], Enum] = {}
    for member in enum:
        plain = to_plain(member.value)
        try:
            members[type(plain), plain] = member
        except TypeError:  # A value that is a list or a map; found by `enum` below.
            continue
    flags = hasattr(enum, "__or__")

    def structure(value: Any, _: Any) -> Enum:
        try:
            found = members.get((type(value), value))
        except TypeError:
            found = None
        if found is not None:
            return found
        if flags and type(value) is int:
            try:
                return enum(value)
            except ValueError:
                pass
        choices = ", ".join(repr(key[1]) for key in members)
        raise _wrong(f"one of {choices}", value)

    return structure


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _literal_structurer(hint: Any) -> _Structure:
    # Keyed by class too, since True == 1 and 1.0 == 1.
    choices: dict[tuple[type, Any], Any] = {}
    for choice in get_args(hint):
        plain = to_plain(choice)
        choices[type(plain), plain] = choice
    names = ", ".join(repr(key[1]) for key in choices)

    def structure(value: Any, _: Any) -> Any:
        try:
            key = (type(value), value)
            if key in choices:
                return choices[key]
        except TypeError:
            pass
        raise _wrong(f"one of {names}", value)

    return structure


# -- containers -------------------------------------------------------------------

_LISTS: Final = frozenset({list, Sequence, MutableSequence, Iterable, deque})
_SETS: Final = frozenset({set, frozenset, AbstractSet})
_MAPS: Final = frozenset({dict, Mapping, MutableMapping})
_MAKERS: Final[dict[Any, Callable[[Any], Any]]] = {
    deque: deque,
    set: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
}


def _base(hint: Any) -> Any:
    return get_origin(hint) or hint


def _is_container(hint: Any) -> bool:
    base = _base(hint)
    return base is tuple or base in _LISTS or base in _SETS or base in _MAPS


def _container_structurer(hint: Any) -> _Structure:
    base = _base(hint)
    arguments = get_args(hint)
    if base in _MAPS:
        key, value = arguments or (Any, Any)
        return _map_structurer(key, value)
    if base is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return (
            _tuple_structurer(arguments)
            if arguments or hint is not tuple
            else _array_structurer(Any, tuple)
        )
    item = arguments[0] if arguments else Any
    make = tuple if base is tuple else _MAKERS.get(base)
    return _array_structurer(item, make)


def _array_structurer(item: Any, make: Callable[[Any], Any] | None) -> _Structure:
    inner = _hook_for(item)
    anything = item is Any or item is object

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not list and type(value) is not tuple:
            raise _wrong("an array", value)
        try:
            items = list(value) if anything else [inner(element, item) for element in value]
        except Exception:
            items = []
            for index, element in enumerate(value):
                try:
                    items.append(inner(element, item))
                except Exception as error:
                    raise _at(f"[{index}]", error) from error
        if make is None:
            return items
        try:
            return make(items)
        except TypeError:
            raise _Mismatch("must hold values that can stand in a set") from None

    return structure


def _tuple_structurer(items: tuple[Any, ...]) -> _Structure:
    if items == ((),):
        items = ()
    inners = [_hook_for(item) for item in items]
    size = len(items)

    def structure(value: Any, _: Any) -> Any:
        if (type(value) is not list and type(value) is not tuple) or len(value) != size:
            raise _wrong(f"an array of {size}", value)
        out: list[Any] = []
        for index, (inner, item, element) in enumerate(zip(inners, items, value, strict=True)):
            try:
                out.append(inner(element, item))
            except Exception as error:
                raise _at(f"[{index}]", error) from error
        return tuple(out)

    return structure


def _map_structurer(key: Any, item: Any) -> _Structure:
    key_hook = _hook_for(key)
    item_hook = _hook_for(item)
    plain_keys = key is Any
    plain_items = item is Any or item is object

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _wrong("a map", value)
        if plain_keys and plain_items:
            return dict(value)
        out: dict[Any, Any] = {}
        for name, element in value.items():
            try:
                structured = name if plain_keys else key_hook(name, key)
                out[structured] = element if plain_items else item_hook(element, item)
            except Exception as error:
                raise _at(f"[{name!r}]", error) from error
        return out

    return structure


def _is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def _named_tuple_fields(hint: Any) -> tuple[Any, ...]:
    hints = get_type_hints(hint)
    return tuple(hints.get(name, Any) for name in hint._fields)


def _named_tuple_structurer(hint: Any) -> _Structure:
    inner = _tuple_structurer(_named_tuple_fields(hint))
    return lambda value, _: hint._make(inner(value, hint))


def _named_tuple_unstructurer(hint: Any) -> _Unstructure:
    hooks = [_unhook_for(item) for item in _named_tuple_fields(hint)]
    return lambda value: [hook(v) for hook, v in zip(hooks, value, strict=True)]


def _container_unstructurer(hint: Any) -> _Unstructure:
    base = _base(hint)
    arguments = get_args(hint)
    if base in _MAPS:
        key, item = arguments or (Any, Any)
        key_hook, item_hook = _unhook_for(key), _unhook_for(item)
        if key_hook is _identity and item_hook is _identity and base is dict:
            return _identity
        return lambda value: {key_hook(k): item_hook(v) for k, v in value.items()}
    if base is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if not arguments:
            return _plain_items
        hooks = [_unhook_for(item) for item in arguments if item != ()]
        if all(hook is _identity for hook in hooks):
            return _identity
        return lambda value: [hook(v) for hook, v in zip(hooks, value, strict=True)]
    hook = _unhook_for(arguments[0]) if arguments else to_plain
    if base in _SETS:
        return lambda value: _ordered([hook(v) for v in value])
    if hook is _identity and base in (list, tuple):
        return _identity
    return lambda value: [hook(v) for v in value]


def _plain_items(value: Iterable[Any]) -> list[Any]:
    return [to_plain(item) for item in value]


def _ordered(items: list[Any]) -> list[Any]:
    # The order of a set differs from process to process; equal sets should have
    # equal bytes.
    with contextlib.suppress(TypeError):
        items.sort()
    return items


# -- unions -----------------------------------------------------------------------


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _is_record(hint: Any) -> bool:
    base = get_origin(hint) or hint
    return isinstance(base, type) and (
        attrs.has(base) or dataclasses.is_dataclass(base) or is_typeddict(base)
    )


def _tag(hint: Any) -> str:
    return str((get_origin(hint) or hint).__name__)


def _resolve(hint: Any) -> Any:
    """Return what an alias, a NewType or an annotation stands for."""
    while True:
        if isinstance(hint, TypeAliasType):
            hint = hint.__value__
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        else:
            return hint


def _members(hint: Any) -> list[Any]:
    members: list[Any] = []
    for argument in get_args(hint):
        resolved = _resolve(argument)
        for member in _members(resolved) if _is_union(resolved) else [resolved]:
            if member not in members:
                members.append(member)
    return members


def _wire_kind(hint: Any) -> Any:
    """Return the Python type that a value of ``hint`` has on the wire."""
    base = _base(hint)
    if base in _PRIMITIVES:
        return base
    if base in (Decimal, datetime, date, time, UUID):
        return str
    if base is timedelta:
        return float
    if base in _MAPS or _is_record(hint):
        return dict
    if _is_container(hint) or _is_named_tuple(hint):
        return list
    if _is_enum(base):
        kinds = {type(to_plain(member.value)) for member in base}
        return kinds.pop() if len(kinds) == 1 else None
    if _is_literal(hint):
        kinds = {type(to_plain(choice)) for choice in get_args(hint)}
        return kinds.pop() if len(kinds) == 1 else None
    return None


def _split_union(hint: Any) -> tuple[list[Any], dict[type, Any]]:
    """Return the classes of a union that need a tag, and its other members by kind.

    Raises:
        TypeError: two members look the same on the wire.
    """
    members = _members(hint)
    records = [member for member in members if _is_record(member)]
    tagged = records if len(records) > 1 else []
    by_kind: dict[type, Any] = {}
    for member in members:
        if member in tagged:
            continue
        kind = _wire_kind(member)
        if kind is None and not _is_enum(member):
            _refuse_unknown(member)
        if kind is None or kind in by_kind or (kind is dict and tagged):
            raise TypeError(
                f"the members of {hint} cannot be told apart once they are encoded; "
                "use classes (attrs or dataclass), which carry their name"
            )
        by_kind[kind] = member
    if len({_tag(record) for record in tagged}) != len(tagged):
        raise TypeError(f"two classes of {hint} have the same name")
    return tagged, by_kind


def _union_structurer(hint: Any) -> _Structure:
    tagged, by_kind = _split_union(hint)
    if not tagged and len(by_kind) == 2 and type(None) in by_kind:
        (only,) = [member for kind, member in by_kind.items() if kind is not type(None)]
        only_hook = _hook_for(only)

        def optional(value: Any, _: Any) -> Any:
            return None if value is None else only_hook(value, only)

        return optional

    hooks = {kind: (_hook_for(member), member) for kind, member in by_kind.items()}
    if list in hooks:
        hooks[tuple] = hooks[list]
    if int not in hooks:
        for lenient in (float, str):
            if lenient in hooks and by_kind.get(lenient) in (float, timedelta, Decimal):
                hooks[int] = hooks[lenient]
                break
    classes = {_tag(record): (_hook_for(record), record) for record in tagged}

    def structure(value: Any, _: Any) -> Any:
        if classes and type(value) is dict:
            chosen = classes.get(str(value.get(TYPE_TAG)))
            if chosen is None:
                mismatch = _wrong(f"one of {', '.join(map(repr, classes))}", value.get(TYPE_TAG))
                raise _at(TYPE_TAG, mismatch)
            return chosen[0](value, chosen[1])
        plain = hooks.get(type(value))
        if plain is None:
            names = [str(getattr(member, "__name__", member)) for member in _members(hint)]
            raise _wrong(f"one of {', '.join(names)}", value)
        return plain[0](value, plain[1])

    return structure


def _union_unstructurer(hint: Any) -> _Unstructure:
    tagged, by_kind = _split_union(hint)
    if not tagged:
        if all(_unhook_for(member) is _identity for member in by_kind.values()):
            return _identity
        if len(by_kind) == 2 and type(None) in by_kind:
            (only,) = [member for kind, member in by_kind.items() if kind is not type(None)]
            hook = _unhook_for(only)
            return lambda value: None if value is None else hook(value)
    hooks = {get_origin(record) or record: (_unhook_for(record), _tag(record)) for record in tagged}

    def unstructure(value: Any) -> Any:
        found = hooks.get(type(value))
        if found is None:
            if tagged and _is_record(type(value)):
                raise _Mismatch(f"{type(value).__name__} is none of {', '.join(map(_tag, tagged))}")
            return to_plain(value)
        plain = dict(found[0](value))
        plain[TYPE_TAG] = found[1]
        return plain

    return unstructure


# -- the converter ----------------------------------------------------------------


class _StrictConverter(Converter):
    """Generates the code for classes, and asks this module for all other types.

    Hooks registered with cattrs would not do: it prefers those of a base class
    (``str``) to those of a kind (enums).
    """

    def get_structure_hook(self, type: Any, cache_result: bool = True) -> Any:
        return _hook_for(type)

    def get_unstructure_hook(self, type: Any, cache_result: bool = True) -> Any:
        return _unhook_for(type)

    def structure(self, obj: Any, cl: Any) -> Any:
        return _hook_for(cl)(obj, cl)

    def unstructure(self, obj: Any, unstructure_as: Any = None) -> Any:
        return to_plain(obj) if unstructure_as is None else _unhook_for(unstructure_as)(obj)

    def base_structure_hook(self, hint: Any) -> _Structure:
        hook: _Structure = super().get_structure_hook(hint)
        return hook

    def base_unstructure_hook(self, hint: Any) -> _Unstructure:
        hook: _Unstructure = super().get_unstructure_hook(hint)
        return hook


_converter: Final = _StrictConverter(detailed_validation=True)
_hooks: Final[dict[Any, _Structure]] = {}
_unhooks: Final[dict[Any, _Unstructure]] = {}


def _hook_for(hint: Any) -> _Structure:
    """Return the structure hook of ``hint``; compiled once."""
    hook = _hooks.get(hint)
    if hook is None:
        # Two threads may both compile it, with the same result.
        hook = _hooks[hint] = _compile_hook(_resolve(hint))
    return hook


def _compile_hook(hint: Any) -> _Structure:
    if hint is None:
        return _structure_none
    if hint is Any or hint is object:
        return _structure_anything
    if hint in _SINGLE_HOOKS:
        return _SINGLE_HOOKS[hint][0]
    if _is_union(hint):
        return _union_structurer(hint)
    if _is_literal(hint):
        return _literal_structurer(hint)
    if _is_enum(hint):
        return _enum_structurer(hint)
    if _is_container(hint):
        return _container_structurer(hint)
    if _is_named_tuple(hint):
        return _named_tuple_structurer(hint)
    if _is_record(hint):
        if is_typeddict(get_origin(hint) or hint):
            return _record_check(_converter.gen_structure_typeddict(hint))
        return _record_check(_converter.gen_structure_attrs_fromdict(hint))
    _refuse_unknown(hint)
    return _converter.base_structure_hook(hint)


def _unhook_for(hint: Any) -> _Unstructure:
    """Return the unstructure hook of ``hint``; compiled once."""
    hook = _unhooks.get(hint)
    if hook is None:
        hook = _unhooks[hint] = _compile_unhook(_resolve(hint))
    return hook


def _compile_unhook(hint: Any) -> _Unstructure:
    if hint is None:
        return _identity
    if hint is Any or hint is object or _is_literal(hint):
        return to_plain
    if hint in _SINGLE_HOOKS:
        return _SINGLE_HOOKS[hint][1]
    if _is_union(hint):
        return _union_unstructurer(hint)
    if _is_enum(hint):
        return _enum_value
    if _is_container(hint):
        return _container_unstructurer(hint)
    if _is_named_tuple(hint):
        return _named_tuple_unstructurer(hint)
    if _is_record(hint):
        if is_typeddict(get_origin(hint) or hint):
            return _converter.gen_unstructure_typeddict(hint)
        return _converter.gen_unstructure_attrs_fromdict(hint)
    _refuse_unknown(hint)
    return _converter.base_unstructure_hook(hint)


def _refuse_unknown(hint: Any) -> None:
    if isinstance(hint, type):
        raise TypeError(
            f"{hint.__name__} has no form on the wire; use an attrs class or a dataclass instead"
        )


def _structure_anything(value: Any, _: Any) -> Any:
    return value


def _record_check(hook: _Structure) -> _Structure:
    def structure(value: Any, hint: Any) -> Any:
        if type(value) is not dict:
            raise _wrong("a map", value)
        return hook(value, hint)

    return structure


def _compile_runtime_unhook(cls: type) -> _Unstructure:
    """Return the hook for values whose class is ``cls`` but whose hint is unknown."""
    if cls is object:
        raise TypeError("object has no form on the wire")
    if not issubclass(cls, Enum) and not _is_record(cls) and not _is_named_tuple(cls):
        for base in cls.__mro__:
            if base in _SINGLE_HOOKS:
                # A subclass (of str, of int, ...) is written as what it is a kind of.
                hook = _SINGLE_HOOKS[base][1]
                return base if hook is _identity else hook
            if base in (list, tuple, deque):
                return _plain_items
            if base in (set, frozenset):
                return lambda value: _ordered(_plain_items(value))
            if base is dict:
                return lambda value: {to_plain(k): to_plain(v) for k, v in value.items()}
    return _unhook_for(cls)


_unhook_at_runtime: Final[Callable[[type], _Unstructure]] = lru_cache(maxsize=1024)(
    _compile_runtime_unhook
)
