"""Methods that are written once and serve both clients.

A method of a `Part` is a flow. Of the class that mixes in `Sync` it is an ordinary method, of the one that mixes in
`Async` a coroutine function or an asynchronous generator; both with the same parameters and docstring.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ..core import Core
from ..drivers import Awaited, Blocking
from ..flow import Flow
from ..updates import Update

P = ParamSpec("P")
T = TypeVar("T")


class Part:
    """Calls about one subject."""

    _driver: Any

    def __init__(self, core: Core, driver: Any) -> None:
        self._core = core
        self._driver = driver


class Sync(Part):
    """Mixed in: the calls block."""

    _driver: Blocking

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        _bind(cls, is_async=False)


class Async(Part):
    """Mixed in: the calls are awaited."""

    _driver: Awaited

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        _bind(cls, is_async=True)


class call(Generic[P, T]):  # noqa: N801 - a decorator
    """Makes a method of a flow that returns."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, part: Sync, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, part: Async, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, part: None, owner: type) -> call[P, T]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self

    def bound(self, is_async: bool) -> Any:
        """Return the method."""
        flow = self.flow
        if is_async:

            async def awaited(part: Async, *args: Any, **more: Any) -> Any:
                return await part._driver.run(flow(part, *args, **more))  # noqa: SLF001 - its own

            return _named(awaited, flow, "{}")

        def blocking(part: Sync, *args: Any, **more: Any) -> Any:
            return part._driver.run(flow(part, *args, **more))  # noqa: SLF001 - its own

        return _named(blocking, flow, "{}")


class items(Generic[P, T]):  # noqa: N801 - a decorator
    """Makes an iterator of a flow that emits. `kind` is the type of the items."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[None]], kind: type[T]) -> None:
        self.flow = flow
        self.kind = kind
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, part: Sync, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, part: Async, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    @overload
    def __get__(self, part: None, owner: type) -> items[P, T]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self

    def bound(self, is_async: bool) -> Any:
        """Return the method."""
        flow = self.flow
        name = getattr(self.kind, "__name__", str(self.kind))

        def iterator(part: Part, *args: Any, **more: Any) -> Any:
            return part._driver.iterate(flow(part, *args, **more))  # noqa: SLF001 - its own

        return _named(iterator, flow, f"AsyncGenerator[{name}, None]" if is_async else f"Generator[{name}, None, None]")


def iterates(kind: type[T]) -> Callable[[Callable[Concatenate[Any, P], Flow[None]]], items[P, T]]:
    """Return the decorator of a flow that emits items of a type."""

    def decorate(flow: Callable[Concatenate[Any, P], Flow[None]]) -> items[P, T]:
        return items(flow, kind)

    return decorate


def emits_updates(flow: Callable[Concatenate[Any, P], Flow[None]]) -> items[P, Update]:
    """Make an iterator of a flow that emits updates."""
    return items(flow, cast(type[Update], Update))


def _named(method: Any, flow: Callable[..., Any], returns: str) -> Any:
    functools.update_wrapper(method, flow)
    del method.__wrapped__
    annotations = dict(flow.__annotations__)
    said = str(annotations.get("return", ""))
    annotations["return"] = returns.format(said[5:-1] if said.startswith("Flow[") else said)
    method.__annotations__ = annotations
    method.__signature__ = inspect.signature(flow).replace(return_annotation=annotations["return"])
    return method


def _bind(cls: type, *, is_async: bool) -> None:
    for base in reversed(cls.__mro__):
        for name, found in vars(base).items():
            if isinstance(found, (call, items)):
                setattr(cls, name, found.bound(is_async))
