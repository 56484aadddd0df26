"""Comparison with a limit, whose figures are printed at the end of the run."""

from __future__ import annotations

import pytest


@pytest.fixture
def near(record_property):
    """Return a check that two tensors differ by at most `limit` of the largest value."""
    largest = {"error": 0.0}
    record_property("largest", largest)

    def check(actual, expected, limit):
        assert actual.shape == expected.shape
        top = expected.float().abs().max()
        assert 0 < float(top) < float("inf")
        error = float((actual.float() - expected.float()).abs().max() / top)
        largest["error"], largest["limit"] = max(error, largest["error"]), limit
        assert error <= limit
        return error

    return check


def pytest_terminal_summary(terminalreporter):
    """Print the largest error of each comparison."""
    terminalreporter.section("largest errors, relative to the largest value")
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        properties = dict(report.user_properties)
        if report.when == "call" and "limit" in properties.get("largest", {}):
            name = report.nodeid.rpartition("::")[2]
            largest = properties["largest"]
            line = f"{largest['error']:.1e} of {largest['limit']:.0e}  {name}"
            terminalreporter.write_line(line)
        for line in properties.get("lines", ()):
            terminalreporter.write_line(f"    {line}")
