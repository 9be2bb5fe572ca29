"""Balancer: three servers behind nginx, in turn and without stickiness. One of them is killed under load."""

import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx

from faults.findings import Findings
from faults.resumes import Read
from faults.servers import Place, Quick, Replica, free_port, program, replicas
from faults.traffic import TIMEOUT, Ledger, Talker, audit, settled

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "nginx.conf"
CLIENTS = 12


async def scenario(place: Place, *, seconds: float = 4) -> Findings:
    """Send load through nginx. Runs of one server are followed and cancelled through the others."""
    findings = Findings("three servers behind nginx, round robin, one killed under load and started again")
    if shutil.which("nginx") is None:
        findings.skipped = "nginx is not installed"
        return findings
    ledger, until = Ledger(), anyio.Event()
    async with replicas(place, 3, Quick().settings) as fleet, nginx(place.folder, fleet) as url:
        await _follow_and_cancel(url, findings)
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(Talker(lambda: [url], ledger, chosen=random.Random(number)).talk, until)
            await anyio.sleep(seconds / 2)
            # On a busy machine the first answer may take longer than this half of the scenario.
            await ledger.first_answer()
            # A copy, taken before the kill: after it some requests may fail.
            calm = dict(ledger.answered)
            await fleet[1].kill()
            await anyio.sleep(seconds / 2)
            await fleet[1].start()
            until.set()
        findings.expect(await settled(place.database, 20), "a run that was acknowledged does not end")
        await audit(place.database, fleet[0].url, ledger, findings)
    executed = Counter(line["pid"] for line in place.journal_lines() if line["node"] == "hear")
    findings.figures |= {"answers before the kill": calm, "runs by process": sorted(executed.values(), reverse=True)}
    findings.expect(set(calm) == {"200"}, f"requests that failed while nothing was broken: {calm}")
    findings.expect(len(executed) >= 3, f"only {len(executed)} processes executed runs")
    findings.expect("500" not in ledger.answered, "a client was answered 500")
    return findings


async def _follow_and_cancel(url: str, findings: Findings) -> None:
    """Several requests of one run in turn to all of the servers: a live stream, a second reader, the cancel."""
    body = {"assistant_id": "counting", "input": {"until": 400, "pause_s": 0.05}, "stream_mode": ["custom"]}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()["run_id"]
        path = f"/threads/{thread_id}/runs/{run_id}"
        reads = [Read() for _ in range(3)]
        with anyio.fail_after(20):
            for read in reads:
                async with http.stream("GET", f"{path}/stream", headers={"last-event-id": "0"}) as answer:
                    await read.take(answer, until=5)
            cancelled = await http.post(f"{path}/cancel", params={"wait": "true"})
            status = (await http.get(path)).json()["status"]
    findings.figures["cancelled through another"] = status
    findings.expect(
        all(read.numbers == list(range(6)) for read in reads), "a reader through another server misses events"
    )
    findings.expect(cancelled.status_code in {200, 204} and status == "interrupted", f"the cancel: {status}")


@asynccontextmanager
async def nginx(folder: Path, fleet: Sequence[Replica]) -> AsyncGenerator[str]:
    """Run nginx with the configuration of the documentation on plain HTTP, and yield its URL."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_configured(EXAMPLE.read_text(), folder, port, [replica.port for replica in fleet]))
    command = ["nginx", "-p", str(folder), "-c", str(config), "-g", f"daemon off; pid {folder}/nginx.pid; user root;"]
    async with program(command, port, folder / "log-nginx", stop=signal.SIGTERM):
        yield f"http://127.0.0.1:{port}"


def _configured(example: str, folder: Path, port: int, ports: Sequence[int]) -> str:
    """Return the example with this scenario's addresses and without certificates."""
    servers = "\n".join(f"        server 127.0.0.1:{server_port};" for server_port in ports)
    text = re.sub(r"^ +server 127\.0\.0\.1:2024;.*$", servers, example, flags=re.MULTILINE)
    # The redirect to HTTPS listens on port 80, which may be taken or not allowed.
    text = re.sub(r"    server \{\n        listen 80;.*?\n    \}\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^ +ssl_.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/log/nginx/access.log", f"{folder}/access.log")
    text = text.replace("worker_processes auto;", f"worker_processes 1;\nerror_log {folder}/error.log;")
    # The default folders belong to the machine's own nginx.
    bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in bodies)
    return text.replace("http {\n", "http {\n" + folders, 1)
