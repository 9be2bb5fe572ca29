"""The concurrency report, run against a small server of the same wire, sound or with one fault."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import anyio
import psutil
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from threadkeep_bench import run
from threadkeep_bench.client import Turn
from threadkeep_bench.measure import measure_at, measure_own
from threadkeep_bench.plan import NAMES, QUESTIONS, Burst, Flood, Measured, Plan, Race
from threadkeep_bench.serve import serving
from threadkeep_bench.verdicts import Verdict, judge

SLOTS = 12
SMALL = Plan(latency_s=0.05, rounds=1, many=40, many_share=0.25)
LONG = Plan(latency_s=0.05, rounds=1, many=60, many_share=8)
"""Its flood lasts longer than it takes to send."""
SPEED_UP, OVERHEAD = "equal length", "over one alone, 12 slots"
ANSWERED, CAP, OTHERS, OWN, KEPT = "answered, each its own", "most graphs", "see another's", "know their own", "kill -9"


@dataclass
class Peer:
    """A server of the wire in memory and files; `fault` names the one thing that it does wrong."""

    fault: str
    folder: Path
    slots: int = SLOTS
    threads: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    asked: int = 0
    limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        room = {"serial": 1, "overruns": 4 * self.slots, "lies": 4 * self.slots}.get(self.fault, self.slots)
        self.limiter = anyio.CapacityLimiter(room)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/readyz", self.ready),
                Route("/info", self.info),
                Route("/threads", self.create, methods=["POST"]),
                Route("/threads/{thread_id}", self.delete, methods=["DELETE"]),
                Route("/threads/{thread_id}/runs/wait", self.wait, methods=["POST"]),
            ]
        )

    async def ready(self, _: Request) -> Response:
        return Response()

    async def info(self, _: Request) -> Response:
        if self.fault == "silent":
            return JSONResponse({"version": "1"})
        running = self.limiter.borrowed_tokens
        told = min(running, self.slots) if self.fault == "lies" else running
        return JSONResponse({"version": "1", "limits": {"run_slots": self.slots}, "load": {"running": told}})

    async def create(self, _: Request) -> Response:
        thread_id = str(uuid4())
        self.threads[thread_id] = []
        return JSONResponse({"thread_id": thread_id})

    async def delete(self, request: Request) -> Response:
        self.threads.pop(request.path_params["thread_id"], None)
        return Response(status_code=204)

    async def wait(self, request: Request) -> Response:
        body = await request.json()
        thread_id = "one for all" if self.fault == "mixes" else request.path_params["thread_id"]
        self.asked += 1
        if self.fault == "loses" and self.asked % 20 == 0:
            return JSONResponse({"detail": "overloaded"}, status_code=503)
        async with self.limiter:
            await anyio.sleep(body["config"]["configurable"]["simulated_latency_s"])
            messages = self.read(thread_id)
            messages.append({"type": "human", "content": body["input"]["messages"][0]["content"]})
            messages.append({"type": "ai", "content": answer(messages)})
            self.write(thread_id, messages)
        return JSONResponse({"messages": messages})

    def read(self, thread_id: str) -> list[dict[str, str]]:
        kept = self.folder / thread_id
        if thread_id not in self.threads and kept.exists():
            self.threads[thread_id] = json.loads(kept.read_text())
        return self.threads.setdefault(thread_id, [])

    def write(self, thread_id: str, messages: list[dict[str, str]]) -> None:
        if self.fault != "forgets":
            (self.folder / thread_id).write_text(json.dumps(messages))


def answer(messages: Sequence[dict[str, str]]) -> str:
    told = [
        text["content"].removeprefix("My name is ") for text in messages if text["content"].startswith("My name is")
    ]
    return f"Your name is {told[-1]}" if told else "I see."


def peer(fault: str) -> tuple[str, ...]:
    """The command that serves a peer."""
    return (sys.executable, __file__, "--fault", fault)


def verdict(measured: Measured, subject: str) -> Verdict:
    found = [one for one in judge(measured) if subject in one.subject]
    assert len(found) == 1
    return found[0]


def turn(sent_s: float, answered_s: float) -> Turn:
    return Turn(question="?", sent_s=sent_s, answered_s=answered_s, conversation=("?", "!"))


async def own(fault: str) -> Measured:
    return await measure_own(SMALL, lambda _: None, command=peer(fault))


async def test_a_sound_server_keeps_every_promise_that_is_not_about_speed() -> None:
    """Ours: threads, cap, answers and memory, through a kill and a restart."""
    measured = await own("sound")

    held = {subject: verdict(measured, subject).held for subject in (ANSWERED, CAP, OTHERS, OWN, KEPT)}
    assert held == {ANSWERED: True, CAP: True, OTHERS: True, OWN: True, KEPT: True}
    assert measured.simulates
    assert measured.roomy is not None
    assert measured.roomy.slots == 15


@pytest.mark.parametrize(
    ("fault", "plan", "broken"),
    [
        ("mixes", SMALL, {OTHERS, OWN}),
        ("overruns", LONG, {CAP}),
        ("lies", LONG, {CAP}),
        ("loses", SMALL, {ANSWERED}),
        ("serial", SMALL, {SPEED_UP, OVERHEAD}),
    ],
)
async def test_a_fault_breaks_its_promise(fault: str, plan: Plan, broken: set[str], tmp_path: Path) -> None:
    """Ours: a report that can't fail says nothing."""
    async with serving(tmp_path, command=peer(fault)) as server:
        measured = await measure_at(server.url, plan, lambda _: None)

    assert {subject for subject in broken if verdict(measured, subject).held is False} == broken


async def test_a_server_that_is_only_visited_is_not_called_persistent(tmp_path: Path) -> None:
    """Ours: what was not tested is not passed."""
    async with serving(tmp_path, command=peer("silent")) as server:
        measured = await measure_at(server.url, SMALL, lambda _: None)

    kept, cap = verdict(measured, KEPT), verdict(measured, CAP)
    assert (kept.held, kept.measured) == (None, "not tested: needs a restart")
    assert (cap.held, cap.measured) == (None, "not tested: the server tells no load")


def test_the_command_writes_both_files_and_its_exit_code_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours: the table is for people, the exit code for CI."""
    code = run(url=None, out=tmp_path / "out", latency_s=0.05, rounds=1, command=peer("forgets"))

    assert code == 1
    told = capsys.readouterr()
    assert "names known after kill -9 and a restart" in told.out
    assert "\x1b" not in told.err
    results = json.loads((tmp_path / "out" / "workflow_concurrency_test_results.json").read_text())
    assert len(results["many"]["turns"]) == 200
    assert [one["held"] for one in results["promises"] if "kill -9" in one["subject"]] == [False]
    page = (tmp_path / "out" / "workflow_concurrency_test_report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "://" not in page
    assert "<script" not in page


def test_a_server_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours: exit code 2 says that nothing was measured."""
    code = run(url=None, out=tmp_path, command=(sys.executable, "-c", "raise SystemExit('no room at the inn')"))

    assert code == 2
    told = capsys.readouterr().err
    assert "no room at the inn" in told


async def test_sigterm_stops_the_server_that_was_started(tmp_path: Path) -> None:
    """Ours: a report that is ended leaves no server behind."""
    script = (
        "import sys; from pathlib import Path; from threadkeep_bench import run; "
        "sys.exit(run(url=None, out=Path(sys.argv[1]), command=sys.argv[2:]))"
    )
    with anyio.fail_after(30):
        async with await anyio.open_process([sys.executable, "-c", script, str(tmp_path), *peer("sound")]) as report:
            assert report.stderr is not None
            told = ""
            while "7 of equal length" not in told:
                told += (await report.stderr.receive()).decode()
            servers = psutil.Process(report.pid).children()
            report.terminate()
            code = await report.wait()

    assert code == 2
    assert len(servers) == 1
    assert not [server for server in servers if server.is_running()]


def test_an_address_where_nobody_listens_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours: exit code 2 says that nothing was measured."""
    assert run(url="http://127.0.0.1:9", out=tmp_path) == 2
    assert "nothing was measured" in capsys.readouterr().err


def test_the_speed_up_is_the_sequential_time_over_the_median_of_the_rounds() -> None:
    """Ours: one slow round does not decide."""
    rounds = tuple((turn(0, 1), turn(0, slowest)) for slowest in (1.0, 2.0, 9.0))
    race = Race(shares=(1.0, 1.0), in_turn=(turn(0, 2), turn(2, 5)), at_once=rounds)

    assert race.speed_up == 2.5
    assert race.possible == 2.0


@pytest.mark.parametrize(("slots", "allowed"), [(12, 0.25), (15, 0.05), (200, 0.05), (5, 1.05), (None, 0.25)])
def test_the_burst_is_allowed_its_second_wave_and_five_percent(slots: int | None, allowed: float) -> None:
    """Ours: 3 of 15 wait for one of 12 slots, which alone makes the mean 20 % longer."""
    burst = Burst(slots=slots, alone=turn(0, 1), at_once=(tuple(turn(0, 1) for _ in range(15)),))

    assert burst.allowed == pytest.approx(allowed)
    assert burst.overhead == 0


def test_the_clock_counts_graphs_whatever_the_server_tells() -> None:
    """Ours: 40 answers of 1 s within 2 s are 20 at once."""
    flood = Flood(latency_s=1.0, turns=tuple(turn(0, 2) for _ in range(40)), samples=((0.0, 3),))

    assert flood.mean_running == 20
    assert flood.most_running == 3


def test_another_question_s_answer_is_not_an_answer() -> None:
    """Ours: each answer belongs to its question."""
    swapped = Turn(question="mine", sent_s=0, answered_s=1, conversation=("another's", "an answer"))

    assert not swapped.answered


def test_no_name_is_part_of_another_and_seven_questions_are_asked() -> None:
    """Ours: else a name would be found where it was not told."""
    assert not [(a, b) for a in NAMES for b in NAMES if a != b and a in b]
    assert len(QUESTIONS) == 7


def serve_peer() -> None:
    """Serve the peer: what `peer` starts in its own process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    folder = Path(os.environ["THREADKEEP_DATA_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    slots = int(os.environ.get("THREADKEEP_RUN_SLOTS", SLOTS))
    app = Peer(fault=options.fault, folder=folder, slots=slots).app()
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    serve_peer()
