"""Compare with a limit, and print what was found: the figures are wanted, not only the verdict."""

from __future__ import annotations

import pytest


@pytest.fixture
def near(record_property):
    """Return a check that two tensors differ by at most `limit` of the largest value."""
    largest = {"error": 0.0}
    record_property("largest", largest)

    def check(got, wanted, limit):
        assert got.shape == wanted.shape
        top = wanted.float().abs().max()
        assert 0 < float(top) < float("inf")
        error = float((got.float() - wanted.float()).abs().max() / top)
        largest["error"], largest["limit"] = max(error, largest["error"]), limit
        assert error <= limit
        return error

    return check


def pytest_terminal_summary(terminalreporter):
    """Print the largest error of each comparison."""
    terminalreporter.section("largest errors, relative to the largest value")
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        found = dict(report.user_properties)
        if report.when == "call" and "limit" in found.get("largest", {}):
            name = report.nodeid.rpartition("::")[2]
            line = f"{found['largest']['error']:.1e} of {found['largest']['limit']:.0e}  {name}"
            terminalreporter.write_line(line)
        for line in found.get("lines", ()):
            terminalreporter.write_line(f"    {line}")
