"""The benchmark's own parts: its connection, and the parts of the server that a profile names."""

import asyncio
import re
from pathlib import Path

import anyio

import threadkeep
from bench.connection import connected
from conftest import WAIT_S


async def test_a_stream_ends_even_if_its_end_arrives_in_two_pieces() -> None:
    """Ours: TCP may cut an answer anywhere."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        await writer.drain()
        await has_first.wait()
        writer.write(b"\r\n")
        writer.close()

    has_first, received = asyncio.Event(), b""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, connected(server.sockets[0].getsockname()[1]) as connection:
        with anyio.fail_after(WAIT_S):
            async for part in connection.stream("/", b"{}"):
                received += part
                has_first.set()

    assert received == b"5\r\nhello\r\n0\r\n\r\n"


def test_the_parts_of_a_profile_are_folders_of_the_server() -> None:
    """Ours: a folder that was renamed would be counted as the rest."""
    source = (Path(__file__).parents[1] / "bench" / "profiled.py").read_text()
    folders = re.findall(r'"(\w+)"', re.findall(r"^FOLDERS = \((.+)\)$", source, re.MULTILINE)[0])

    assert len(folders) > 5
    assert [name for name in folders if not (Path(threadkeep.__file__).parent / name).is_dir()] == []
