"""The price follows the traffic: the load settles at the target without a lasting swing."""

import numpy as np
import pytest

from dlrmjit.serve.allocation.control import Forecast, Mpc


def demand(price):
    """CPU seconds of a query at a price."""
    return min(1.0, 0.2 / max(price, 1e-9))


def price_of(seconds):
    return 0.0 if seconds >= 1 else 0.2 / seconds


def test_mpc_fills_the_capacity_and_works_off_what_waits():
    control, price, waiting, loads = Mpc(), 0.0, 0.0, []
    for tick in range(120):
        queries = 0.5 if tick < 40 else 2.0
        given = queries * demand(price)
        waiting = max(0.0, waiting + given - 1.0)
        loads.append(given)
        price = control.update(queries, 1.0, waiting, price_of)
    np.testing.assert_allclose(loads[5:40], 0.5)
    np.testing.assert_allclose(loads[-20:], control.target, rtol=0.03)
    assert waiting < 0.3


def test_a_forecast_follows_level_and_trend():
    forecast = Forecast()
    for tick in range(100):
        forecast.add(10.0 + 2 * tick)
    assert forecast.ahead(5) == pytest.approx(10 + 2 * 104, rel=0.02)
    assert Forecast().ahead(3) == 0
