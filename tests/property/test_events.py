"""Laws of the log: wherever a crash cuts it, what was whole is read and what comes next is read too."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from luthier.events import Event, Log, RunFinished, StageFailed, Step, Validated, Warned, read

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOAT = st.floats(allow_nan=False)  # nan is not equal to itself; tests/unit looks at it
COUNT = st.integers(0, 2**40)
EVENTS = st.lists(
    st.builds(Warned, TEXT)
    | st.builds(StageFailed, TEXT, TEXT)
    | st.builds(Step, COUNT, FLOAT, FLOAT, FLOAT, COUNT, FLOAT)
    | st.builds(Validated, COUNT, FLOAT, st.booleans()),
    max_size=5,
)


def events(path: Path) -> list[Event]:
    return [event for _, event in read(path)]


@given(EVENTS, st.integers(0, 10**6))
def test_a_log_cut_anywhere_keeps_every_whole_event_and_goes_on(written: list[Event], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        log, ends = Log(path), []
        for event in written:
            log.write(event)
            ends.append(path.stat().st_size)
        assert events(path) == written
        if ends:
            cut %= ends[-1] + 1
            path.write_bytes(path.read_bytes()[:cut])
        whole = written[: sum(end - 1 <= cut for end in ends)]  # a line without its end is still a whole object
        assert events(path) == whole
        log.write(RunFinished("done"))  # the same writer, its position beyond the cut
        Log(path).write(RunFinished("failed"))
        assert events(path) == [*whole, RunFinished("done"), RunFinished("failed")]
