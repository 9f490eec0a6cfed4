"""Kubernetes' quantities as numbers."""

import math
from decimal import Decimal, InvalidOperation

_FACTORS = {
    "m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}  # fmt: skip


def whole(quantity: str | int | float) -> int:
    """The quantity as the operator takes it: rounded up, so `500m` is 1.

    Raises:
        ValueError: it is no quantity.
    """
    text = str(quantity)
    number = text.rstrip("mkMGTPi")
    try:
        return math.ceil(Decimal(number) * _FACTORS[text[len(number) :]])
    except (InvalidOperation, KeyError):
        raise ValueError(f"{text!r} was given; it is no Kubernetes quantity") from None
