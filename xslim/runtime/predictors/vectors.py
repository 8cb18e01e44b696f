"""Weights of the kept residuals as short vectors of floats, for rules that are written as recursions."""

from __future__ import annotations

Vector = tuple[float, ...]


def unit(position: int, length: int) -> Vector:
    """The residual at a position, as weights."""
    return tuple(float(i == position) for i in range(length))


def mix(*terms: tuple[float, Vector]) -> Vector:
    """Sum of scaled vectors of equal length."""
    return tuple(
        sum(scale * part for (scale, _), part in zip(terms, parts, strict=True))
        for parts in zip(*(vector for _, vector in terms), strict=True)
    )
