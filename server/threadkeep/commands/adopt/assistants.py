"""Assistants: takes over the current version of each assistant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadkeep.auth.ownership import OWNER
from threadkeep.commands.adopt.ids import thread_id_of
from threadkeep.commands.adopt.target import LEFT_OUT, LeftOut, Target, lost, words
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.tables import assistants
from threadkeep.tables.adopted_threads import SOURCE_KEY
from threadkeep.tables.assistants import NewAssistant


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAssistant:
    """An assistant at the source."""

    original_id: str
    source: str
    graph_id: str
    name: str
    description: str | None
    config: Mapping[str, Any]
    context: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    owner: str | None = None

    @property
    def is_of_graph(self) -> bool:
        """Whether it is a graph's own assistant, which this server makes itself."""
        return thread_id_of(self.original_id) == assistants.system_id(self.graph_id)


async def adopt_assistant(target: Target, assistant: SourceAssistant) -> None:
    """Take over an assistant, and report the result."""
    if assistant.is_of_graph:
        return
    report = target.report
    try:
        is_new = await _adopt(target, assistant)
    except LEFT_OUT as reason:
        if lost(reason):
            raise
        report.skip("assistants", assistant.original_id, words(reason))
        return
    (report.taken if is_new else report.here)["assistants"] += 1


async def _adopt(target: Target, assistant: SourceAssistant) -> bool:
    """Whether the assistant was new here."""
    if assistant.graph_id not in target.graphs:
        raise LeftOut(f"the project has no graph {assistant.graph_id!r}")
    owner = target.owner_of(assistant.owner)
    if target.is_empty:
        return True
    async with target.pool.connection() as conn, conn.transaction():
        here = await assistants.get(conn, UNRESTRICTED, thread_id_of(assistant.original_id))
        if here is not None and here.metadata.load().get(SOURCE_KEY) != assistant.source:
            raise LeftOut("an assistant with this id exists here, and does not come from this source")
        if here is None and not target.options.dry_run:
            await assistants.create(conn, _new(assistant, owner))
    return here is None


def _new(assistant: SourceAssistant, owner: str | None) -> NewAssistant:
    config = {key: value for key, value in assistant.config.items() if key != "configurable"}
    marks = {SOURCE_KEY: assistant.source} | ({OWNER: owner} if owner else {})
    return NewAssistant(
        assistant_id=thread_id_of(assistant.original_id),
        graph_id=assistant.graph_id,
        name=assistant.name,
        description=assistant.description,
        config=config,
        context=assistant.context or assistant.config.get("configurable") or {},
        metadata={**assistant.metadata, **marks},
        principal=owner,
    )
