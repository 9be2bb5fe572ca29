"""Proxies: the examples of docs/examples stand before a real server, with TLS, and keep what they promise."""

import datetime
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conftest import WAIT_S, free_port, serving
from graphs import Gate
from threadkeep.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@dataclass(frozen=True)
class Proxy:
    """What is started, and how."""

    command: list[str]
    environment: Mapping[str, str]
    port: int


@pytest.fixture(params=["nginx", "caddy"])
def kind(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    """The example for this machine: what is replaced has to be there, so that the rest is the very file."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))


def _nginx(folder: Path, upstream: str) -> Proxy:
    port = free_port()
    _certificate(folder)
    changes = {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "127.0.0.1:2024": upstream,
        "agents.example.com;\n        ssl": "localhost;\n        ssl",
        "/etc/ssl/agents.example.com.pem": str(folder / "cert.pem"),
        "/etc/ssl/private/agents.example.com.key": str(folder / "key.pem"),
        "/var/log/nginx/access.log": str(folder / "access.log"),
        "client_header_timeout 10s": "client_header_timeout 1s",
    }
    (folder / "nginx.conf").write_text(_replaced((EXAMPLES / "nginx.conf").read_text(), changes))
    rest = f"daemon off; pid {folder}/pid; error_log {folder}/error.log;"
    return Proxy(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", rest], {}, port)


def _caddy(folder: Path, upstream: str) -> Proxy:
    port = free_port()
    here = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tservers {"
    changes = {"{\n\tservers {": here, "read_header 10s": "read_header 1s"}
    (folder / "Caddyfile").write_text(_replaced((EXAMPLES / "Caddyfile").read_text(), changes))
    environment = {"SITE": f"https://localhost:{port}", "UPSTREAM": upstream, "HOME": str(folder)}
    return Proxy(["caddy", "run", "--config", str(folder / "Caddyfile")], environment, port)


@asynccontextmanager
async def _before(kind: str, folder: Path, url: str) -> AsyncIterator[int]:
    """The proxy of an example before the server at `url`; yields its port."""
    make = {"nginx": _nginx, "caddy": _caddy}[kind]
    proxy = make(folder, url.removeprefix("http://"))
    with (folder / "output").open("wb") as output:
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(
                proxy.command, env={**os.environ, **proxy.environment}, stdout=output, stderr=output
            )
        )
    try:
        await _listening(process, proxy.port, folder)
        yield proxy.port
    finally:
        process.terminate()
        await anyio.to_thread.run_sync(process.wait)


async def _listening(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    async with _client(port) as http:
        with anyio.fail_after(WAIT_S * 2):
            while True:
                assert process.poll() is None, (folder / "output").read_text()
                try:
                    if (await http.get("/livez")).status_code == 200:
                        return
                except httpx.TransportError:
                    await anyio.sleep(0.05)


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=_tls(), timeout=WAIT_S)


def _tls() -> ssl.SSLContext:
    """Of the certificates of a test nobody knows who made them."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_an_event_passes_at_once(kind: str, settings: Settings, tmp_path: Path, gate: Gate) -> None:
    """Ours: no proxy of ours gathers a stream; the first event comes while the run still goes on."""
    run = {"assistant_id": "gated", "input": {"items": []}, "stream_mode": "values"}
    async with serving(settings) as url, _before(kind, tmp_path, url) as port, _client(port) as http:
        with anyio.fail_after(WAIT_S):
            async with http.stream("POST", "/runs/stream", json=run) as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "event: metadata"
                await gate.entered()
                gate.open()
                rest = [line async for line in lines]

    assert 'data: {"items":["gated"]}' in rest
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_metrics_are_closed_to_the_outside(kind: str, settings: Settings, tmp_path: Path) -> None:
    """Ours: they are there, and whoever comes by the proxy does not get them, however the path is written."""
    async with serving(settings) as url, _before(kind, tmp_path, url) as port, _client(port) as http:
        async with httpx.AsyncClient(base_url=url) as inside:
            assert (await inside.get("/metrics")).status_code == 200
        for path in ("/metrics", "/metrics/", "/%6detrics", "//metrics", "/x/../metrics", "/metrics?x=1"):
            answer = await http.get(f"https://localhost:{port}{path}")
            assert (answer.status_code, "threadkeep_run_slots" in answer.text) == (404, False), path


async def test_a_body_above_the_limit_is_refused(kind: str, settings: Settings, tmp_path: Path) -> None:
    """Ours: with 413, or, while it is still being sent, by hanging up; the next request is answered."""
    async with serving(settings) as url, _before(kind, tmp_path, url) as port, _client(port) as http:
        with suppress(httpx.ReadError, httpx.WriteError):
            answer = await http.post("/threads", content=b" " * (17 * 1024 * 1024))
            assert answer.status_code == 413
        assert (await http.post("/threads", json={})).status_code == 200


async def test_a_head_that_comes_too_slowly_is_cut_off(kind: str, settings: Settings, tmp_path: Path) -> None:
    """Ours: against slowloris, before it reaches the server (here 1 s, in the example 10 s)."""
    async with serving(settings) as url, _before(kind, tmp_path, url) as port:
        with anyio.fail_after(WAIT_S):
            stream = await anyio.connect_tcp(
                "127.0.0.1", port, ssl_context=_tls(), tls_hostname="localhost", tls_standard_compatible=False
            )
            async with stream:
                await stream.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
                answered = b""
                try:
                    while True:
                        answered += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    pass

    assert answered == b"" or answered.startswith(b"HTTP/1.1 408 ")
