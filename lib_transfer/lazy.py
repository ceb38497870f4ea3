"""Attributes that are computed when first asked for, by any number of threads at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class lazy_property(Generic[T]):  # noqa: N801 - used as ``functools.cached_property`` is
    """An attribute that is computed once for each object.

    ``functools.cached_property`` does the same, but before Python 3.12 it holds one lock for all objects of a class while it
    computes: no two modules would be worked on at the same time. Here two threads that ask one object at once may both compute,
    and get equal results.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> lazy_property[T] | T:
        """The attribute; from now on the object has it under its name, and this is not asked again."""
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.make(instance)
        return value
