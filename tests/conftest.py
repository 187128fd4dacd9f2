"""What all tests share: no network, and the record of which tuning x objective pairs were proved."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: as the command line does, for busy machines
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

hypothesis.settings.register_profile("luthier", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("luthier")

HEARD_HERE = {"pipeline", "cli", "serve"}
"""Rooms whose many releases are heard in the tests' own process: a new one takes seconds to load its libraries."""
PROVES = "proves"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--capabilities", metavar="FILE", help="write the proved tuning x objective pairs to FILE (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Proofs(), PROVES)


@pytest.fixture(autouse=True)
def heard_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity by a witness in this process; tests/unit/release and tests/recipes have it in a new one, as users do."""
    if request.path.parent.name not in HEARD_HERE:
        return
    from luthier.release.parity import witness

    elsewhere = witness.Elsewhere.hear

    def hear(asked: witness.Elsewhere, *given: Any, **named: Any) -> Any:
        return elsewhere(asked, *given, **named) if "gguf" in named else witness.of_folder(*given, **named)

    monkeypatch.setattr(witness.Elsewhere, "hear", hear)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What a test proves travels with its report, also from another process."""
    report = yield
    report.user_properties.append((PROVES, [mark.args for mark in item.iter_markers(PROVES)]))
    return report


class Proofs:
    """A pair is proved when every test marked with it ran and passed; a skipped one proves nothing."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return  # a failing set-up or tear-down counts, a passing one does not
        for name, pairs in report.user_properties:
            for tuning, objective in pairs if name == PROVES else ():
                self.found[tuning, objective] = self.found.get((tuning, objective), True) and report.passed


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--capabilities") or os.environ.get("LUTHIER_CAPABILITIES")
    if target and not hasattr(session.config, "workerinput"):  # a worker tells the process that started it
        proofs = session.config.pluginmanager.get_plugin(PROVES)
        proved = sorted(list(pair) for pair, passed in proofs.found.items() if passed)
        lines = ",\n".join(f"  {json.dumps(pair)}" for pair in proved)
        Path(target).write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")
