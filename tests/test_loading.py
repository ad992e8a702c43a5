"""Loading a service's class: what can be named, and one clear line for what cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis._loading import load_actor_class
from aegis.errors import ConfigurationError

ACTOR = """
from aegis import AegisActor, command

class {name}(AegisActor):
    service = "{name}"

    @command
    async def work(self, amount: int) -> int:
        return amount
"""


@pytest.fixture(autouse=True)
def in_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def refused(target: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_actor_class(target)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_class_is_loaded_from_a_file_or_a_module() -> None:
    write("one.py", ACTOR.format(name="One"))
    write("pack/__init__.py", "")
    write("pack/two.py", ACTOR.format(name="Two"))
    assert load_actor_class("one.py:One").__name__ == "One"
    assert load_actor_class("pack.two:Two").__name__ == "Two"


def test_the_only_actor_of_a_file_need_not_be_named() -> None:
    write("base.py", ACTOR.format(name="Base"))
    write("mine.py", "from base import Base\n\nclass Mine(Base):\n    service = 'mine'\n")
    assert load_actor_class("mine.py").__name__ == "Mine"


def test_a_file_is_loaded_once_however_it_is_named() -> None:
    path = write("same.py", ACTOR.format(name="Same"))
    first = load_actor_class("same.py:Same")
    assert load_actor_class(str(path.absolute())) is first
    assert load_actor_class("same:Same") is first


def test_a_file_of_a_package_is_loaded_as_part_of_it() -> None:
    write("shop/__init__.py", "")
    write("shop/parts/__init__.py", "")
    write("shop/parts/base.py", ACTOR.format(name="Base"))
    write(
        "shop/parts/till.py", "from .base import Base\n\nclass Till(Base):\n    service = 'till'\n"
    )
    assert load_actor_class("shop/parts/till.py:Till").__module__ == "shop.parts.till"


@pytest.mark.parametrize("name", ["json.py", "not-a-name.py", "email.py"])
def test_a_file_may_have_the_name_of_another_module(name: str) -> None:
    write(f"services/{name}", ACTOR.format(name="Odd"))
    assert load_actor_class(f"services/{name}").__name__ == "Odd"
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", "a.py:", "'a.py:' names no class; write file.py:Class or module:Class"),
        ("", ":A", "':A' names no class"),
        ("", "gone.py:A", "gone.py does not exist; name a Python file"),
        ("", "folder/:A", "folder/ is a folder; name a Python file in it"),
        ("", "no.such:A", "there is no module 'no.such'"),
        ("", "a:A", "a has no class 'A'; write a class that subclasses aegis.AegisActor"),
        ("", "9lives:A", "'9lives' is neither a file nor a module; write file.py:Class"),
        ("class A(:\n", "a.py:A", "a.py line 1: syntax error: "),
        ("x = 1\n\nx.y\n", "a.py:A", "a.py line 3: AttributeError: 'int' object has no attribute"),
        ("import nowhere\n", "a.py:A", "a.py line 1: ModuleNotFoundError: No module named 'nowh"),
        ("import sys\nsys.exit(3)\n", "a.py:A", "a.py line 2: SystemExit: 3"),
        ("import broken\n", "a.py:A", "broken.py line 2 (loaded for a.py): syntax error: "),
        ("import json\njson.loads('{')\n", "a.py:A", "a.py line 2: JSONDecodeError: Expecting"),
        ("\0", "a.py:A", "a.py: "),
        ("A = 3\n", "a.py:A", "a.py:A is a int, not a class; name a subclass of aegis.AegisActor"),
        ("class A: pass\n", "a.py:A", "a.py:A is no actor; let it subclass aegis.AegisActor"),
        ("from aegis import AegisActor\n", "a.py:AegisActor", "a.py:AegisActor is no actor"),
        ("class A: pass\n", "a.py", "a.py defines no actor; write a class that subclasses"),
        (ACTOR.format(name="Account"), "a.py:Acount", "did you mean a.py:Account?"),
        (ACTOR.format(name="Account"), "a.py:Z", "a.py has no class 'Z'; it has Account"),
        (
            ACTOR.format(name="One") + ACTOR.format(name="Two"),
            "a.py",
            "a.py defines several actors; write a.py:One or a.py:Two",
        ),
        (
            ACTOR.format(name="A").replace(": int", ""),
            "a.py:A",
            "A.work: parameter 'amount' has no type hint; add one, as in amount: int",
        ),
        (ACTOR.format(name="A").replace('"A"', '""'), "a.py:A", "A: the class has no service name"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(text: str, target: str, message: str) -> None:
    write("folder/x.py", "")
    write("broken.py", "\n1 +\n")
    write("a.py", text)
    assert message in refused(target)


def test_a_file_that_failed_can_be_loaded_once_it_is_mended() -> None:
    file = write("mended.py", "raise ValueError('not yet')\n")
    assert "mended.py line 1: ValueError: not yet" in refused("mended.py:Mended")
    file.write_text("# now\n" + ACTOR.format(name="Mended"))
    assert load_actor_class("mended.py:Mended").__name__ == "Mended"
