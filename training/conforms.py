"""Check at run time that a value, e.g. from a checkpoint, has the type of an annotation."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin


def conforms(value: object, hint: Any) -> bool:
    """Tell whether `value` and everything in it has the type `hint`; an int passes as a float."""
    kinds, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if kinds in {Union, UnionType}:
        return any(conforms(value, part) for part in parts)
    if hint is float:
        return type(value) in {int, float}
    if hint is int:
        return type(value) is int  # a bool is an int to isinstance
    if kinds is tuple and parts[-1] is not Ellipsis:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(conforms(item, part) for item, part in zip(value, parts, strict=True))
        )
    if kinds in {list, tuple}:
        return isinstance(value, kinds) and all(conforms(item, parts[0]) for item in value)
    if kinds in {dict, Mapping}:
        return isinstance(value, Mapping) and all(
            conforms(key, parts[0]) and conforms(item, parts[1]) for key, item in value.items()
        )
    return isinstance(value, hint)
