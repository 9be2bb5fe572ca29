"""A run by the models that datamodel-codegen generates. Arguments: the server's URL. Prints what it got, as JSON."""

import json
import sys

import httpx
from threadkeep_models import Problem, Run, Thread, ThreadBody, ThreadRunBody

with httpx.Client(base_url=sys.argv[1]) as http:

    def post(path: str, body: ThreadBody | ThreadRunBody) -> httpx.Response:
        sent = body.model_dump_json(exclude_unset=True)
        return http.post(path, content=sent, headers={"content-type": "application/json"})

    thread = Thread.model_validate(post("/threads", ThreadBody(metadata={"topic": "sums"})).json())
    body = ThreadRunBody(assistant_id="chain", input={"items": []})
    run = Run.model_validate(post(f"/threads/{thread.thread_id}/runs", body).json())
    http.get(f"/threads/{thread.thread_id}/runs/{run.run_id}/join")
    done = Run.model_validate(http.get(f"/threads/{thread.thread_id}/runs/{run.run_id}").json())
    waited = post(f"/threads/{thread.thread_id}/runs/wait", body).json()
    refused = Problem.model_validate(http.get("/threads/no").json())
    told = {"waited": waited, "status": done.model_dump(mode="json")["status"], "refused": refused.code}
    sys.stdout.write(json.dumps(told))
