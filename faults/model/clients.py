"""Clients: each sends one random operation after the other, on a random thread, through a random server."""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import httpx

from faults.model.ledger import Ledger, Operation
from faults.servers import Replica

TIMEOUT = httpx.Timeout(120, connect=10)
GRAPH = "model"
WEIGHTS: Mapping[str, int] = {
    "wait": 16,
    "stream": 8,
    "background": 12,
    "update": 20,
    "delayed": 6,
    "ask": 6,
    "cancel": 12,
    "repeat": 5,
    "heavy": 2,
    "fork_update": 3,
    "fork_run": 3,
    "copy": 3,
    "delete": 3,
    "prune": 2,
    "prune_delete": 1,
    "make": 3,
    "expiring": 2,
    "cron": 1,
    "assistant": 2,
    "webhook": 1,
}
"""How often each kind of operation is chosen."""
ALWAYS = frozenset({"wait", "background", "update", "make"})
STRATEGIES = ("enqueue",) * 5 + ("interrupt", "interrupt", "rollback", "rollback", "reject")
EXPECTED: Mapping[str, frozenset[int]] = {
    "run": frozenset({200, 404, 409, 503}),
    "resume": frozenset({200, 404, 409, 503}),
    "fork_run": frozenset({200, 404, 409, 503}),
    "update": frozenset({200, 400, 404, 409, 503}),
    "fork_update": frozenset({200, 400, 404, 409, 503}),
    "cancel": frozenset({200, 202, 404, 503}),
    "delete": frozenset({204, 404, 503}),
    "prune": frozenset({200, 503}),
    "make": frozenset({200, 409, 503}),
    "copy": frozenset({200, 404, 503}),
    "cron": frozenset({200, 404, 503}),
    "cron_delete": frozenset({204, 404, 503}),
    "assistant_make": frozenset({200, 503}),
    "assistant_delete": frozenset({204, 404, 503}),
    "read": frozenset({200, 404, 503}),
}
UNREACHABLE = "http://127.0.0.1:9/"
"""A webhook that cannot be delivered: its row stays until the attempts are used up."""


@dataclass(slots=True)
class Scene:
    """The state that the clients share."""

    fleet: Sequence[Replica]
    ledger: Ledger
    threads: list[str]
    assistants: list[str] = field(default_factory=list[str])
    kinds: Sequence[str] = tuple(WEIGHTS)
    """Operations of this round."""


@dataclass(slots=True)
class Client:
    """One client, which waits for each answer before it goes on."""

    scene: Scene
    number: int
    chosen: random.Random
    http: httpx.AsyncClient

    async def work(self, until: anyio.Event) -> None:
        """Send operations until told to stop."""
        weights = [WEIGHTS[kind] for kind in self.scene.kinds]
        while not until.is_set():
            thread_id = self.chosen.choice(self.scene.threads)
            [kind] = self.chosen.choices(self.scene.kinds, weights)
            # Otherwise most operations of a round would only be answered 404.
            if thread_id in self.scene.ledger.missing and self.chosen.random() < 0.5:
                kind = "make"
            await getattr(self, f"_{kind}")(thread_id)
            # Cubed: most pauses are nearly zero, because races need requests that come together.
            await anyio.sleep(self.chosen.random() ** 3 * 0.1)

    # Runs

    async def _wait(self, thread_id: str) -> None:
        await self._foreground(self._run(thread_id))

    async def _stream(self, thread_id: str) -> None:
        await self._streamed(self._run(thread_id))

    async def _background(self, thread_id: str) -> None:
        await self._queued(self._run(thread_id))

    async def _delayed(self, thread_id: str) -> None:
        operation = self._run(thread_id, after_s=round(self.chosen.uniform(0.05, 1.5), 2))
        await self.chosen.choice((self._queued, self._foreground))(operation)

    async def _heavy(self, thread_id: str) -> None:
        operation = self._run(thread_id)
        # A large checkpoint takes long to write, which widens the window for every race with that write.
        operation.about["body"]["input"]["blob"] = "x" * self.chosen.randint(1_000_000, 3_000_000)
        await self._queued(operation)

    async def _webhook(self, thread_id: str) -> None:
        operation = self._run(thread_id)
        operation.about["body"]["webhook"] = UNREACHABLE
        await self._queued(operation)

    async def _ask(self, thread_id: str) -> None:
        """Interrupt the graph, then answer it, perhaps after somebody else did."""
        operation = self._run(thread_id)
        operation.about["ask"] = operation.about["body"]["input"]["ask"] = True
        await self._foreground(operation)
        await anyio.sleep(self.chosen.random() * 0.2)
        resume = self._begin("resume", thread_id, prefix="s")
        body = self._body(resume)
        body["command"] = {"resume": resume.token}
        resume.about["body"] = body
        await self._foreground(resume)

    async def _fork_run(self, thread_id: str) -> None:
        if (place := await self._place(thread_id)) is None:
            return
        operation = self._run(thread_id, kind="fork_run")
        operation.about |= place
        operation.about["body"]["checkpoint_id"] = place["at"]
        await self.chosen.choice((self._queued, self._foreground, self._streamed))(operation)

    async def _repeat(self, thread_id: str) -> None:
        """Send one request two or three times with one Idempotency-Key, at once or one after the other."""
        operation = self._run(thread_id)
        body = operation.about.pop("body")
        path = self.chosen.choice((f"/threads/{thread_id}/runs", f"/threads/{thread_id}/runs/wait"))
        headers = {"idempotency-key": operation.token}
        answers: list[httpx.Response | None] = []
        at_once, servers = self.chosen.random() < 0.7, self.chosen.choices(self.scene.fleet, k=3)

        async def send(replica: Replica) -> None:
            answer = await self._send(operation, "POST", f"{replica.url}{path}", json=body, headers=headers)
            answers.append(answer)

        async with anyio.create_task_group() as tasks:
            for replica in servers[:2]:
                tasks.start_soon(send, replica)
                # 0 still lets the other request begin first.
                await anyio.sleep(0 if at_once else self.chosen.random() * 0.2)
        await send(servers[2])
        _note_repeats(operation, answers)

    def _run(self, thread_id: str, *, kind: str = "run", after_s: float = 0) -> Operation:
        operation = self._begin(kind, thread_id, prefix="r")
        body = self._body(operation)
        body["input"] = {
            "log": [operation.token],
            "token": operation.token,
            "ask": False,
            "blob": "",
            "steps": self.chosen.choice((1, 1, 2, 4, 30)),
            "sleep_s": self.chosen.choice((0, 0, 0.003, 0.01, 0.05)),
        }
        if after_s:
            body["after_seconds"] = operation.about["after_s"] = after_s
        # Such a run may create the thread anew at the moment in which another client deletes it.
        if self.chosen.random() < 0.1:
            body["if_not_exists"] = "create"
            body["metadata"]["epoch"] = operation.about["makes"] = f"e{operation.token}"
        operation.about["body"] = body
        return operation

    def _body(self, operation: Operation) -> dict[str, Any]:
        strategy = self.chosen.choice(STRATEGIES)
        durability = self.chosen.choice(("sync", "async", "exit"))
        assistant = self.chosen.choice([GRAPH, GRAPH, *self.scene.assistants])
        operation.about |= {"strategy": strategy, "durability": durability}
        if assistant != GRAPH:
            operation.about["assistant_id"] = assistant
        return {
            "assistant_id": assistant,
            "metadata": {"token": operation.token},
            "multitask_strategy": strategy,
            "durability": durability,
            "config": {"recursion_limit": 500},
        }

    async def _queued(self, operation: Operation) -> None:
        answer = await self._post(operation, f"/threads/{operation.thread_id}/runs")
        if answer is not None and answer.status_code == 200:
            operation.run_id = answer.json()["run_id"]
            # A delayed run takes its place in the log when it begins, so its answer promises no order.
            operation.settled = operation.answered if "after_s" not in operation.about else operation.settled

    async def _foreground(self, operation: Operation) -> None:
        answer = await self._post(operation, f"/threads/{operation.thread_id}/runs/wait")
        if answer is None or answer.status_code != 200:
            return
        operation.run_id = _run_id(answer)
        operation.settled = operation.answered
        values = answer.json()
        if isinstance(values, dict) and "__error__" in values:
            operation.about["error"] = values["__error__"]
        elif isinstance(values, dict):
            # The client saw its own token in the answer. That is the strongest promise of a run.
            operation.about["witnessed"] = operation.token in values.get("log", [])

    async def _streamed(self, operation: Operation) -> None:
        """Read the stream. Sometimes leave in the middle: the run goes on."""
        url = f"{self._url(operation)}/threads/{operation.thread_id}/runs/stream"
        leaves = self.chosen.random() < 0.2
        body = operation.about.pop("body")
        try:
            async with self.http.stream("POST", url, json=body) as answer:
                self._answered(operation, answer.status_code)
                if answer.status_code != 200:
                    return
                operation.run_id = _run_id(answer)
                operation.settled = operation.answered if "after_s" not in operation.about else operation.settled
                async for line in answer.aiter_lines():
                    if leaves and line.startswith("data"):
                        return
        except httpx.TransportError as failure:
            self._cut(operation, failure)

    # Changes of a thread

    async def _update(self, thread_id: str) -> None:
        await self._change(self._begin("update", thread_id, prefix="u"))

    async def _fork_update(self, thread_id: str) -> None:
        if (place := await self._place(thread_id)) is None:
            return
        operation = self._begin("fork_update", thread_id, prefix="u")
        operation.about |= place
        await self._change(operation)

    async def _change(self, operation: Operation) -> None:
        node = self.chosen.choice(("done", "done", "work", "first"))
        operation.about["as_node"] = node
        values = {"log": [operation.token], "token": operation.token, "ask": False, "steps": 1, "blob": ""}
        body: dict[str, Any] = {"values": values, "as_node": node}
        if at := operation.about.get("at"):
            body["checkpoint_id"] = at
        operation.about["body"] = body
        answer = await self._post(operation, f"/threads/{operation.thread_id}/state")
        if answer is not None and answer.status_code == 200:
            operation.about["made"] = answer.json()["checkpoint_id"]
            operation.settled = operation.answered

    async def _place(self, thread_id: str) -> dict[str, Any] | None:
        """One of the thread's newest checkpoints, and the log there."""
        read = self._begin("read", thread_id)
        path = f"/threads/{thread_id}/history"
        answer = await self._send(read, "GET", f"{self._url(read)}{path}", params={"limit": 8})
        if answer is None or answer.status_code != 200 or not answer.json():
            return None
        state = self.chosen.choice(answer.json())
        at = state["checkpoint"]["checkpoint_id"]
        # Noted before the fork is sent: the check for second children may run meanwhile.
        self.scene.ledger.forked_at.add(at)
        return {"at": at, "log_there": (state["values"] or {}).get("log", [])}

    # Cancels

    async def _cancel(self, thread_id: str) -> None:
        """Cancel a run that a look at the thread showed as active."""
        read = self._begin("read", thread_id)
        answer = await self._send(read, "GET", f"{self._url(read)}/threads/{thread_id}/runs", params={"limit": 6})
        if answer is None or answer.status_code != 200:
            return
        active = [run["run_id"] for run in answer.json() if run["status"] in {"pending", "running"}]
        if not active:
            return
        operation = self._begin("cancel", thread_id)
        operation.run_id = self.chosen.choice(active)
        action = self.chosen.choice(("interrupt", "rollback"))
        wait = self.chosen.choice(("true", "false"))
        operation.about |= {"action": action, "wait": wait}
        path = f"/threads/{thread_id}/runs/{operation.run_id}/cancel"
        await self._send(operation, "POST", f"{self._url(operation)}{path}", params={"action": action, "wait": wait})

    # Threads as a whole

    async def _make(self, thread_id: str) -> None:
        await self._created(self._begin("make", thread_id), ttl=None)

    async def _expiring(self, thread_id: str) -> None:
        """Make a thread that a TTL soon deletes or prunes, if there is none."""
        strategy = self.chosen.choice(("delete", "delete", "keep_latest"))
        minutes = self.chosen.choice((0.0005, 0.002, 0.01))
        operation = self._begin("make", thread_id)
        operation.about |= {"ttl_s": minutes * 60, "ttl_strategy": strategy}
        if strategy == "keep_latest":
            self.scene.ledger.pruned.add(thread_id)
        await self._created(operation, ttl={"ttl": minutes, "strategy": strategy})

    async def _created(self, operation: Operation, *, ttl: object) -> None:
        epoch = operation.about["makes"] = self.scene.ledger.unique("e")
        operation.about["body"] = {"thread_id": operation.thread_id, "metadata": {"epoch": epoch}, "ttl": ttl}
        answer = await self._post(operation, "/threads")
        if answer is not None and answer.status_code in {200, 409}:
            self.scene.ledger.missing.discard(operation.thread_id)

    async def _delete(self, thread_id: str) -> None:
        """Delete the thread and usually make it again at once."""
        operation = self._begin("delete", thread_id)
        await self._send(operation, "DELETE", f"{self._url(operation)}/threads/{thread_id}")
        if self.chosen.random() < 0.7:
            await self._make(thread_id)
        else:
            self.scene.ledger.missing.add(thread_id)

    async def _prune(self, thread_id: str) -> None:
        self.scene.ledger.pruned.add(thread_id)
        operation = self._begin("prune", thread_id)
        operation.about["body"] = {"thread_ids": [thread_id], "strategy": "keep_latest"}
        await self._post(operation, "/threads/prune")

    async def _prune_delete(self, thread_id: str) -> None:
        operation = self._begin("prune", thread_id)
        operation.about["deletes"] = True
        operation.about["body"] = {"thread_ids": [thread_id], "strategy": "delete"}
        await self._post(operation, "/threads/prune")
        self.scene.ledger.missing.add(thread_id)

    async def _copy(self, thread_id: str) -> None:
        operation = self._begin("copy", thread_id)
        answer = await self._send(operation, "POST", f"{self._url(operation)}/threads/{thread_id}/copy")
        if answer is not None and answer.status_code == 200:
            copied = answer.json()["thread_id"]
            operation.about["copy"] = copied
            self.scene.ledger.copies[copied] = operation
            # A copy has no older checkpoints if its source has lost them.
            if thread_id in self.scene.ledger.pruned:
                self.scene.ledger.pruned.add(copied)

    async def _cron(self, thread_id: str) -> None:
        """Run every second, two or three times."""
        operation = self._begin("cron", thread_id, prefix="c")
        body = self._body(operation)
        body["input"] = {"log": [operation.token], "token": operation.token, "ask": False, "steps": 1, "sleep_s": 0}
        body |= {"schedule": "* * * * * *", "multitask_strategy": "enqueue"}
        operation.about |= {"strategy": "enqueue", "body": body}
        answer = await self._post(operation, f"/threads/{thread_id}/runs/crons")
        if answer is None or answer.status_code != 200:
            return
        await anyio.sleep(self.chosen.uniform(1.2, 2.5))
        gone = self._begin("cron_delete", thread_id)
        await self._send(gone, "DELETE", f"{self._url(gone)}/runs/crons/{answer.json()['cron_id']}")

    async def _assistant(self, thread_id: str) -> None:  # noqa: ARG002 - it concerns all threads that it ran on
        """Make an assistant, or delete one with the threads on which it was the last to run."""
        pool = self.scene.assistants
        if len(pool) < 3:
            operation = self._begin("assistant_make", "")
            operation.about["body"] = {"graph_id": GRAPH, "assistant_id": (assistant_id := str(uuid4()))}
            answer = await self._post(operation, "/assistants")
            if answer is not None and answer.status_code == 200:
                pool.append(assistant_id)
            return
        assistant_id = pool.pop(self.chosen.randrange(len(pool)))
        operation = self._begin("assistant_delete", "")
        operation.about["assistant_id"] = assistant_id
        url = f"{self._url(operation)}/assistants/{assistant_id}"
        await self._send(operation, "DELETE", url, params={"delete_threads": "true"})

    # HTTP

    def _begin(self, kind: str, thread_id: str, prefix: str = "") -> Operation:
        server = self.chosen.randrange(len(self.scene.fleet))
        operation = Operation(kind=kind, thread_id=thread_id, client=self.number, server=server)
        return self.scene.ledger.begin(operation, prefix)

    def _url(self, operation: Operation) -> str:
        return self.scene.fleet[operation.server].url

    async def _post(self, operation: Operation, path: str) -> httpx.Response | None:
        return await self._send(operation, "POST", f"{self._url(operation)}{path}", json=operation.about.pop("body"))

    async def _send(self, operation: Operation, method: str, url: str, **options: Any) -> httpx.Response | None:
        """Send a request and record the answer. None if the connection was lost."""
        try:
            answer = await self.http.request(method, url, **options)
        except httpx.TransportError as failure:
            self._cut(operation, failure)
            return None
        self._answered(operation, answer.status_code, answer.text[:300])
        return answer

    def _answered(self, operation: Operation, status: int, text: str = "") -> None:
        operation.answered, operation.status = time.time(), status
        ledger = self.scene.ledger
        ledger.answers[f"{operation.kind} {status}"] += 1
        if status not in EXPECTED[operation.kind]:
            text_of_violation = f"{operation.kind} {operation.token} was answered {status} {text}"
            ledger.report("answers", operation.thread_id, text_of_violation, [operation.token])
        elif status == 404 and '"Thread' in text and operation.thread_id:
            ledger.missing.add(operation.thread_id)

    def _cut(self, operation: Operation, failure: httpx.TransportError) -> None:
        """The connection was lost: whether the operation happened is not known."""
        ledger = self.scene.ledger
        ledger.answers[f"{operation.kind} lost"] += 1
        # A lost connection is what a kill does. A silence of two minutes is a fault of the server.
        if isinstance(failure, (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout)):
            ledger.report("answers", operation.thread_id, f"{operation.kind} {operation.token} was not answered")


def _run_id(answer: httpx.Response) -> str:
    return answer.headers["content-location"].rsplit("/", 1)[-1]


def _note_repeats(operation: Operation, answers: Sequence[httpx.Response | None]) -> None:
    """Combine several answers to one idempotent request."""
    made = [_run_id(answer) for answer in answers if answer is not None and answer.status_code == 200]
    operation.about["repeats"] = [answer.status_code if answer is not None else 0 for answer in answers]
    operation.about["made"] = sorted(set(made))
    if made:
        operation.run_id, operation.status = made[0], 200
        operation.settled = operation.answered
    # One request was lost, so none of the others' refusals says that nothing was done.
    elif None in answers:
        operation.status = 0
    for answer in answers:
        if answer is not None and answer.status_code == 200 and '"__error__"' in answer.text[:300]:
            operation.about["error"] = json.loads(answer.text)["__error__"]
