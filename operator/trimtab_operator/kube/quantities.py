"""Amounts as the API server compares them: `1000m` is `1`."""

from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity


def same_quantity(left: Any, right: Any) -> bool:
    """Tell whether two values are one amount. Values that are no amounts are not."""
    first, second = _quantity(left), _quantity(right)
    return first is not None and first == second


def _quantity(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return Decimal(parse_quantity(value))  # type: ignore[no-untyped-call]
    except (ValueError, ArithmeticError):
        return None
