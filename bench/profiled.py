"""Where the server's time goes under load, by module: `python bench/profiled.py --kind "new thread"`.

py-spy (`pip install py-spy`; it may need root) samples a server that `load.py` keeps busy. Prints the share of each
part's own frames (self), and of all samples with the part on the stack (total), then the lines and functions with the
highest cost. With --write the parts, of stateless and of stateful runs, go into docs/benchmarks.md.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import report
import servers
from run import HERE, command, database

LOOP = "Python and the loop"
FOLDERS = ("api", "auth", "base", "duties", "persistence", "postgres", "runs", "tables", "threads")
"""Folders of the server that run under load."""
PARTS = {
    "/threadkeep/cli.py": LOOP,
    "/threadkeep/__main__.py": LOOP,
    "/threadkeep/serving.py": LOOP,
    **{f"/threadkeep/{folder}/": f"threadkeep.{folder}" for folder in FOLDERS},
    "/threadkeep/": "threadkeep, the rest",
    "bench/graphs/": "the graph",
    "/langgraph/checkpoint/": "langgraph.checkpoint",
    "/langgraph/": "langgraph",
    "/langchain_core/": "langchain_core",
    "/langsmith/": "langsmith",
    "/psycopg": "psycopg",
    "/uvicorn/": "uvicorn",
    "/starlette/": "starlette",
    "/anyio/": "anyio",
    "/pydantic": "pydantic",
    "/asyncio/": "asyncio",
    "/logging/": "logging",
}
OURS = tuple(f"/threadkeep/{folder}/" for folder in FOLDERS)
RATE = 200
"""Samples a second."""


def main() -> None:
    """Record and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["stateless", "new thread", "same thread"], action="append")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write the shares into docs/benchmarks.md")
    chosen = parser.parse_args()
    kinds: list[str] = chosen.kind or ["stateless", "new thread"]
    written: list[str] = []
    for kind in kinds:
        profile = Profile.of(recorded(kind, chosen.clients, chosen.seconds))
        print("\n".join([f"\n{kind}, {chosen.clients} clients", "", *profile.parts(), "", *profile.hottest()]))
        written += [f"{kind.capitalize()}, {chosen.clients} clients:", "", *profile.parts(), ""]
    if chosen.write:
        report.put("profile", [f"By `{command()}`:", "", *written[:-1]])


def recorded(kind: str, clients: int, seconds: int) -> str:
    """py-spy's samples of a server under load: a stack a line, with how often it was seen."""
    spy = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    with tempfile.TemporaryDirectory() as folder, database() as uri, servers.ours(uri) as server:
        raw = Path(folder) / "stacks"
        load = [sys.executable, str(HERE / "load.py"), str(server.port), kind, str(clients)]
        record = [spy, "record", "--pid", str(server.process.pid), "--format", "raw", "--full-filenames"]
        options = ["--rate", str(RATE), "--duration", str(seconds), "--output", str(raw)]
        # Two seconds longer, because py-spy needs some time to start, and would else sample an idle server.
        with subprocess.Popen([*load, "--seconds", str(seconds + 2)], stdout=subprocess.DEVNULL) as loading:
            subprocess.run([*record, *options], check=True, capture_output=True)
            loading.wait()
        return raw.read_text()


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples: by part and by line of the frame on top, by part and by function of ours of any frame."""

    own: Counter[str]
    total: Counter[str]
    lines: Counter[str]
    functions: Counter[str]

    @classmethod
    def of(cls, stacks: str) -> "Profile":
        """The samples in py-spy's raw format."""
        profile = cls(Counter(), Counter(), Counter(), Counter())
        for line in stacks.splitlines():
            stack, _, count = line.rpartition(" ")
            frames = stack.split(";")
            if "threading.py" not in frames[-1]:  # the heartbeat's thread waits
                profile._add(frames, int(count))
        return profile

    def _add(self, frames: list[str], weight: int) -> None:
        self.own[_part(frames[-1])] += weight
        self.lines[_short(frames[-1])] += weight
        # A set: a part that is on the stack several times counts once.
        for part in {_part(frame) for frame in frames}:
            self.total[part] += weight
        for name in {_short(frame).rpartition(":")[0] for frame in frames if _is_ours(frame)}:
            self.functions[name] += weight

    def parts(self) -> list[str]:
        """A Markdown table of the parts."""
        whole = self.own.total()
        lines = ["| part | self | with what it calls |", "|---|---|---|"]
        for part, count in self.own.most_common():
            # Every sample is below the event loop, so its share would always be 100 %.
            below = "" if part == LOOP else f"{self.total[part] / whole:.1%}"
            lines.append(f"| {part} | {count / whole:.1%} | {below} |")
        return lines

    def hottest(self) -> list[str]:
        """Return the lines with the highest own cost, and our functions with the highest total cost."""
        whole = self.own.total()
        lines = [f"{count / whole:6.1%}  {name}" for name, count in self.lines.most_common(20)]
        functions = [f"{count / whole:6.1%}  {name}" for name, count in self.functions.most_common(25)]
        return ["self:", *lines, "", "ours, with what they call:", *functions]


def _is_ours(frame: str) -> bool:
    return any(part in frame for part in OURS)


def _part(frame: str) -> str:
    # The first match counts, so folders stand before the package that contains them.
    return next((part for path, part in PARTS.items() if path in frame), LOOP)


def _short(frame: str) -> str:
    """`name (…/package/module.py:12)` without the way to the package."""
    name, _, place = frame.partition(" (")
    return f"{name} {'/'.join(place.rstrip(')').split('/')[-2:])}"


if __name__ == "__main__":
    main()
