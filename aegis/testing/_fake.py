"""A service that stands in for a real one: it records what it gets, and answers as told."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from attrs import evolve

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import ActorSpec, HandlerSpec, describe
from aegis.contracts import Kind
from aegis.errors import ConfigurationError, Rejected
from aegis.testing._probe import Probe, Recorded
from aegis.transport._convert import to_plain

__all__ = ["FakeService", "fake_class"]


class FakeService(Probe):
    """A service whose resources record what they get; made by `MemoryCluster.fake`.

    Of a class it has the handlers, and checks parameters and answers as that does; of a
    mere name it takes any command. It answers None until it is told what to.
    """

    def __init__(self, service: type[AegisActor] | str) -> None:
        self._real = None if isinstance(service, str) else describe(service)
        self.service = service if isinstance(service, str) else describe(service).service
        super().__init__(f"the fake {self.service}")
        self._answers: dict[str, Callable[..., Any]] = {}

    def answers(self, method: str, answer: Any) -> None:
        """Answer a method with a value, or with what a function of its parameters returns.

        The function may be async, and may raise.
        """
        self._check(method)
        if callable(answer):
            self._answers[method] = answer
        else:
            self._answers[method] = _constant(answer)

    def rejects(self, method: str, message: str = "not now", **facts: Any) -> None:
        """Refuse a method as a business answer: 422."""

        def reject(**_: Any) -> NoReturn:
            raise Rejected(message, **facts)

        self.answers(method, reject)

    def fails(self, method: str, error: BaseException | None = None) -> None:
        """Fail in a method, as a bug would: 500."""

        def fail(**_: Any) -> NoReturn:
            raise error or RuntimeError(f"the fake {self.service} fails in {method}")

        self.answers(method, fail)

    def hangs(self, method: str) -> None:
        """Never answer a method."""

        async def hang(**_: Any) -> None:
            await asyncio.get_running_loop().create_future()

        self.answers(method, hang)

    def _check(self, method: str) -> None:
        if self._real is not None and method not in self._real.handlers:
            known = ", ".join(sorted(self._real.handlers))
            raise ConfigurationError(f"{self.service} has no method {method!r}; it has {known}")

    async def handle(self, actor: AegisActor, method: str, params: dict[str, Any]) -> Any:
        """Record a message, and return the answer to it."""
        address = f"{self.service}/{actor.resource_id}" if actor.resource_id else self.service
        now = asyncio.get_running_loop().time()
        self.record(Recorded(method, address, params, actor.message_id, at=now))
        answer = self._answers.get(method)
        if answer is None:
            return None
        value = answer(**params)
        return await value if inspect.isawaitable(value) else value


class _AnyHandlers(Mapping[str, HandlerSpec]):
    """Handlers of any name, all of them commands but those that are named as queries."""

    def __init__(self, fake: FakeService, queries: Collection[str]) -> None:
        self._fake = fake
        self._queries = queries

    def __getitem__(self, name: str) -> HandlerSpec:
        return HandlerSpec(
            name=name,
            kind=Kind.QUERY if name in self._queries else Kind.COMMAND,
            function=_function(self._fake, name),
            is_async=True,
            parameters=(),
            result=Any,
            bind=dict,
            unstructure_result=to_plain,
            structure_result=_same,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def fake_class(fake: FakeService, service: type[AegisActor] | str, queries: Collection[str]) -> Any:
    """Return the class whose instances ``fake`` speaks for."""
    made: Any = type("Fake", (AegisActor,), {"service": fake.service})
    handlers: Mapping[str, HandlerSpec]
    if isinstance(service, str):
        handlers = _AnyHandlers(fake, queries)
    else:
        handlers = MappingProxyType(
            {
                name: evolve(handler, function=_function(fake, name), is_async=True)
                for name, handler in describe(service).handlers.items()
                if not handler.is_stream
            }
        )
    made._aegis_spec = ActorSpec(made, fake.service, handlers, None, {}, _same, _same)
    return made


def _function(fake: FakeService, name: str) -> Callable[..., Any]:
    async def handle(actor: AegisActor, **params: Any) -> Any:
        return await fake.handle(actor, name, params)

    return handle


def _constant(answer: Any) -> Callable[..., Any]:
    def give(**_: Any) -> Any:
        return answer

    return give


def _same(value: Any) -> Any:
    return value
