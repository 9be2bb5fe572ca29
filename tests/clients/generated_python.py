"""A run by the client that openapi-python-client generates. Arguments: the server's URL. Prints what it got, as JSON."""

import json
import sys
from typing import Any

from threadkeep_client import Client
from threadkeep_client.api.stateless_runs import query
from threadkeep_client.api.thread_runs import create_run, create_run_and_stream, create_run_and_wait, get_run, join_run
from threadkeep_client.api.threads import create_thread, search_threads
from threadkeep_client.models import QueryBody, ThreadBody, ThreadRunBody, ThreadSearch

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    thread: Any = create_thread.sync(client=client, body=ThreadBody.from_dict({"metadata": {"topic": "sums"}}))
    body = ThreadRunBody.from_dict({"assistant_id": "chain", "input": {"items": []}})
    waited: Any = create_run_and_wait.sync(client=client, thread_id=thread.thread_id, body=body)
    streamed = create_run_and_stream.sync(client=client, thread_id=thread.thread_id, body=body)
    run: Any = create_run.sync(client=client, thread_id=thread.thread_id, body=body)
    join_run.sync(client=client, thread_id=thread.thread_id, run_id=run.run_id)
    done: Any = get_run.sync(client=client, thread_id=thread.thread_id, run_id=run.run_id)
    found: Any = search_threads.sync(client=client, body=ThreadSearch.from_dict({"metadata": {"topic": "sums"}}))
    refused: Any = query.sync_detailed(client=client, body=QueryBody.from_dict({"query": "hello", "thread_id": "no"}))
    told = {
        "waited": waited,
        "streamed": streamed,
        "status": done.status,
        "found": [str(each.thread_id) == str(thread.thread_id) for each in found],
        "refused": [refused.status_code, refused.parsed.code],
    }
    sys.stdout.write(json.dumps(told, default=lambda value: value.to_dict()))
