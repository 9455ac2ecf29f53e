"""What stands between quantising and coding: a model as integers with steps. Types only.

Not covered: choosing the integers (compress/quantise.py), writing them as bytes (compress/entropy.py).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Matrix:
    """Integer codes and the exponents of their steps, in quarter octaves: 2^((base + rows + columns) / 4)."""

    shape: tuple[int, ...]
    codes: np.ndarray  # int32 [R, C]
    base: int
    rows: np.ndarray  # int [R], within +-40
    columns: np.ndarray  # int [C], within +-40


@dataclass(frozen=True)
class Vector:
    """(codes + centre) * 2^exponent."""

    shape: tuple[int, ...]
    codes: np.ndarray  # int32, flat
    exponent: int
    centre: int


@dataclass(frozen=True)
class QuantisedModel:
    """Every tensor in its stored form, and what it takes to read the codes of the matrices."""

    tensors: dict[str, Matrix | Vector]
    trellis: list[int]  # next state at index 2 * state + parity of the code (compress/trellis.py)
    restart: int  # rows after which the trellis begins again at state 0
    scales: np.ndarray  # float32 [4]: the dial times 0, 1, 2 and 3 quarters of an octave
