"""Compare: the same requests to LangGraph's own server and to ours; exits with 1 where a difference has no reason.

python tests/reference/compare.py                         starts both, compares, writes docs/differences.md
python tests/reference/compare.py --only runs --show      the cases named so, and every difference
python tests/reference/compare.py --urls http://… http://…   two servers that run already (reference, ours)
"""

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import known
import page
from cases import ALONE, CASES, Case
from comparing import Difference, compare
from naming import Names
from recording import WAIT_S, Server, Step

import servers

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "differences.md"
AT_ONCE = 4
"""Cases that a server answers at once."""


def main() -> int:
    options = _options()
    cases = [case for case in CASES if options.only in case.__name__]
    with _both(options) as (reference, ours), ThreadPoolExecutor(2) as pool:
        version = httpx.get(f"{reference}/info").json()["version"]
        theirs, mine = pool.map(lambda url: _record_all(url, cases), [reference, ours])
    differences = [found for case in cases for found in compare(theirs[case.__name__], mine[case.__name__])]
    reasons = known.read()
    left = known.unexplained(differences, reasons)
    steps = sum(len(case) for case in theirs.values())
    for found in differences if options.show else left:
        _say(_line(found))
    _say(f"{steps} requests, {len(differences)} fields differ, {len(left)} of them for no reason that we know")
    if not options.only:
        for entry in reasons:
            if not entry.found:
                _say(f"a reason explains nothing any more: {entry.reason}")
        if not left:
            PAGE.write_text(page.render(reasons, steps=steps, version=version))
    return 1 if left else 0


@contextmanager
def _both(options: argparse.Namespace) -> Generator[tuple[str, str]]:
    if options.urls:
        yield options.urls
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.reference(Path(folder), options.program) as reference,
        servers.ours(Path(folder)) as ours,
    ):
        yield reference, ours


def _record_all(url: str, cases: Sequence[Case]) -> dict[str, list[Step]]:
    """The steps of each case; those that touch what others made come last, one after the other."""
    together = [case for case in cases if case not in ALONE]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda case: _record(url, case), together))
    steps = dict(zip([case.__name__ for case in together], done, strict=True))
    return steps | {case.__name__: _record(url, case) for case in cases if case in ALONE}


def _record(url: str, case: Case) -> list[Step]:
    """The steps of a case, in names; one that stops early says why in a last step."""
    with httpx.Client(base_url=url, timeout=WAIT_S, limits=httpx.Limits(max_keepalive_connections=0)) as http:
        server = Server(case.__name__, http)
        try:
            case(server)
        except Exception:  # noqa: BLE001 - whatever stops a case on one server is a difference
            _say(f"{case.__name__} stopped at {url}:\n{traceback.format_exc(limit=-2)}")
            stop = {"stopped": traceback.format_exc(limit=0).strip()}
            server.steps.append(Step(name=f"{case.__name__}: stopped", request="", answer=stop))
    graphs = list(json.loads((servers.PROJECT / "langgraph.json").read_text())["graphs"])
    names = Names(graphs, server.threads)
    return [Step(name=step.name, request=step.request, answer=names.answer(step.answer)) for step in server.steps]


def _line(found: Difference) -> str:
    return (
        f"{found.step} [{found.request}]\n  {found.field}\n"
        f"    reference: {known.written(found.reference)[:1200]}\n    ours:      {known.written(found.ours)[:1200]}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", nargs=2, metavar=("REFERENCE", "OURS"), help="servers that run already")
    parser.add_argument("--only", default="", help="the cases whose names contain this")
    parser.add_argument("--show", action="store_true", help="print the known differences too")
    parser.add_argument(
        "--program",
        type=Path,
        default=ROOT / ".venv-reference" / "bin" / "langgraph",
        help="the reference's `langgraph` (%(default)s)",
    )
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
