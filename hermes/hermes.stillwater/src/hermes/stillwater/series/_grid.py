"""Times are kept as numbers of samples since GPS 0.

GPS seconds are about 1.4e9 today, and neighbouring floats there 2.4e-7 apart:
adding up ``n / sample_rate`` would drift, a number of samples cannot. What
comes in and goes out as GPS seconds is rounded once.
"""

from __future__ import annotations

import math

import numpy as np

from hermes.stillwater.errors import InvalidSeries

__all__ = (
    "check_rate",
    "check_size",
    "gps_time",
    "sample_number",
    "stride_size",
)

# How far from a sample a time may be, in samples, besides what a float cannot
# hold; and where floats no longer tell samples apart.
TOLERANCE = 0.01
COARSEST = 0.4
FARTHEST = 2**50  # samples from GPS 0 up to which they surely do


def check_rate(sample_rate: float) -> float:
    """Make sure that a rate is one.

    Raises:
        InvalidSeries: If it is not positive and finite.
    """
    try:
        rate = float(sample_rate)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        msg = f"sample_rate={sample_rate!r}: give samples per second, above 0"
        raise InvalidSeries(msg)
    return rate


def check_size(option: str, size: object) -> None:
    """Make sure that a number of samples or kernels is one.

    Raises:
        InvalidSeries: If it is no whole number above 0.
    """
    if not isinstance(size, int | np.integer) or size is True or size < 1:
        msg = f"{option}={size!r}: give a whole number, 1 or more"
        raise InvalidSeries(msg)


def sample_number(start: float, sample_rate: float) -> int:
    """Which sample it is that has this time, counted from GPS 0.

    Raises:
        InvalidSeries: If no sample has.
    """
    position = start * sample_rate
    if not math.isfinite(position):
        msg = (
            f"start={start!r} with sample_rate={sample_rate!r}: give finite"
            " GPS seconds"
        )
        raise InvalidSeries(msg)
    number = round(position)
    error = abs(position - number)
    is_doubtful = error > TOLERANCE or abs(position) > FARTHEST
    if is_doubtful and error > _tolerance(start, sample_rate):
        msg = (
            f"start={start!r} is {error:.3f} samples off those at"
            f" {sample_rate:g} Hz, the nearest of which is at"
            f" {number / sample_rate!r}: give the time of a sample, one of the"
            f" multiples of 1 / {sample_rate:g} s"
        )
        raise InvalidSeries(msg)
    return number


def _tolerance(start: float, sample_rate: float) -> float:
    """Twice what rounding a time to a float may cost, and a bit.

    Raises:
        InvalidSeries: If that is too much to tell samples apart.
    """
    rounding = math.ulp(start) * sample_rate
    if rounding > COARSEST:
        msg = (
            f"GPS times near {start!r} are {math.ulp(start):.2g} s apart as"
            f" floats, which cannot tell samples at {sample_rate:g} Hz apart:"
            " give times since a later epoch"
        )
        raise InvalidSeries(msg)
    return TOLERANCE + rounding


def gps_time(number: int, sample_rate: float) -> float:
    """GPS seconds of a sample: the float that is nearest to them."""
    return number / sample_rate


def stride_size(sample_rate: float, inference_sampling_rate: float) -> int:
    """Samples between consecutive kernels.

    Args:
        sample_rate: Samples per second.
        inference_sampling_rate: Predictions per second.

    Returns:
        Their ratio.

    Raises:
        InvalidSeries: If it is no whole number.
    """
    ratio = check_rate(sample_rate) / check_rate(inference_sampling_rate)
    stride = round(ratio)
    if stride < 1 or not math.isclose(ratio, stride, rel_tol=1e-9):
        msg = (
            f"sample_rate={sample_rate:g} Hz / inference_sampling_rate="
            f"{inference_sampling_rate:g} Hz is {ratio:g} samples between"
            " predictions, which must be a whole number, 1 or more: choose an"
            " inference_sampling_rate that divides the sample_rate"
        )
        raise InvalidSeries(msg)
    return stride
