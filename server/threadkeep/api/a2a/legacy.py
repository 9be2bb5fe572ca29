"""Legacy: the requests and answers of A2A 0.3, from and into those of 1.0."""

from collections.abc import Mapping
from typing import Any, Final, cast

from threadkeep.api.a2a.errors import invalid_params

Fields = dict[str, Any]
WRAPPED: Final = "data_part_compat"
"""The SDKs' key for data that is not an object, because 0.3 has only objects."""
FINAL_STATES: Final = frozenset({"completed", "failed", "canceled", "rejected", "input-required", "auth-required"})
"""States after which a stream ends."""
STATE_PREFIX: Final = "TASK_STATE_"


def params_of(method: str, params: Mapping[str, Any]) -> Fields:
    """The parameters of a method of 0.3 as those of 1.0. A2AError if they have another shape."""
    if method in {"message/send", "message/stream"}:
        configuration = _object(params.get("configuration") or {}, "configuration")
        return {
            "message": _message_in(_object(params.get("message"), "message")),
            "configuration": _configuration_in(configuration),
            "metadata": params.get("metadata"),
        }
    if method == "tasks/pushNotificationConfig/set":
        config = _object(params.get("pushNotificationConfig"), "pushNotificationConfig")
        return {"taskId": params.get("taskId"), **_push_config_in(config)}
    # In these methods `id` is the task. 1.0 has `taskId`, and `id` for the config.
    if method.startswith("tasks/pushNotificationConfig/"):
        return {"taskId": params.get("id"), "id": params.get("pushNotificationConfigId")}
    return dict(params)


def task_out(task: Mapping[str, Any]) -> Fields:
    """A task."""
    fields: Fields = {
        "kind": "task",
        "id": task["id"],
        "contextId": task["contextId"],
        "status": _status_out(task["status"]),
    }
    if "artifacts" in task:
        fields["artifacts"] = [_artifact_out(artifact) for artifact in task["artifacts"]]
    if "history" in task:
        fields["history"] = [_message_out(message) for message in task["history"]]
    return fields


def event_out(event: Mapping[str, Any]) -> Fields:
    """An event of a stream."""
    if "task" in event:
        return task_out(event["task"])
    if "statusUpdate" in event:
        update = event["statusUpdate"]
        status = _status_out(update["status"])
        final = status["state"] in FINAL_STATES
        # Clients of 0.3 read until `final`. 1.0 ends the stream instead.
        return {"kind": "status-update", **update, "status": status, "final": final}
    update = event["artifactUpdate"]
    return {"kind": "artifact-update", **update, "artifact": _artifact_out(update["artifact"])}


def push_config_out(config: Mapping[str, Any]) -> Fields:
    """A push notification config with its task."""
    fields = {name: config[name] for name in ("id", "url", "token") if name in config}
    if authentication := config.get("authentication"):
        credentials = {name: authentication[name] for name in ("credentials",) if name in authentication}
        fields["authentication"] = {"schemes": [authentication["scheme"]], **credentials}
    return {"taskId": config["taskId"], "pushNotificationConfig": fields}


def _configuration_in(configuration: Mapping[str, Any]) -> Fields:
    fields: Fields = {
        "acceptedOutputModes": configuration.get("acceptedOutputModes"),
        "historyLength": configuration.get("historyLength"),
    }
    # 0.3 says `blocking` and 1.0 the opposite. Without either field the server waits in both.
    if (blocking := configuration.get("blocking")) is not None:
        if not isinstance(blocking, bool):
            raise invalid_params("configuration.blocking", "must be true or false")
        fields["returnImmediately"] = not blocking
    if (config := configuration.get("pushNotificationConfig")) is not None:
        named = _object(config, "configuration.pushNotificationConfig")
        fields["taskPushNotificationConfig"] = _push_config_in(named)
    return fields


def _push_config_in(config: Mapping[str, Any]) -> Fields:
    fields = {name: config.get(name) for name in ("id", "url", "token")}
    if (sent := config.get("authentication")) is not None:
        authentication = _object(sent, "pushNotificationConfig.authentication")
        schemes: Any = authentication.get("schemes") or []
        if not isinstance(schemes, list) or not schemes:
            raise invalid_params("pushNotificationConfig.authentication.schemes", "must name a scheme")
        credentials = authentication.get("credentials")
        # 0.3 allows several schemes, but a notification has one Authorization header.
        fields["authentication"] = {"scheme": cast("list[Any]", schemes)[0], "credentials": credentials}
    return fields


def _message_in(message: Mapping[str, Any]) -> Fields:
    role = {"user": "ROLE_USER", "agent": "ROLE_AGENT"}.get(str(message.get("role")), "")
    parts: Any = message.get("parts")
    if isinstance(parts, list):
        part_list = cast("list[Any]", parts)
        parts = [_part_in(_object(part, f"message.parts[{index}]"), index) for index, part in enumerate(part_list)]
    return {**message, "role": role, "parts": parts}


def _part_in(part: Mapping[str, Any], index: int) -> Fields:
    kind = part.get("kind")
    metadata = {**cast("Fields", part.get("metadata") or {})} if isinstance(part.get("metadata"), dict) else {}
    if kind == "text":
        return {"text": part.get("text"), "metadata": metadata}
    if kind == "data":
        data = part.get("data")
        if metadata.pop(WRAPPED, False) and isinstance(data, dict):
            data = cast("Fields", data).get("value")
        return {"data": data, "metadata": metadata}
    if kind == "file":
        file = _object(part.get("file"), f"message.parts[{index}].file")
        # Neither field: the url of None is refused later as a part without content.
        content = {"raw": file.get("bytes")} if file.get("bytes") is not None else {"url": file.get("uri")}
        return {**content, "mediaType": file.get("mimeType"), "filename": file.get("name"), "metadata": metadata}
    raise invalid_params(f"message.parts[{index}].kind", "must be text, file or data")


def _message_out(message: Mapping[str, Any]) -> Fields:
    role = "user" if message["role"] == "ROLE_USER" else "agent"
    return {"kind": "message", **message, "role": role, "parts": [_part_out(part) for part in message["parts"]]}


def _part_out(part: Mapping[str, Any]) -> Fields:
    metadata = {**part.get("metadata", {})}
    if "text" in part:
        fields: Fields = {"kind": "text", "text": part["text"]}
    elif "data" in part:
        data = part["data"]
        # 0.3 has only objects here. The SDKs undo this by the same key.
        if not isinstance(data, dict):
            data, metadata = {"value": data}, {**metadata, WRAPPED: True}
        fields = {"kind": "data", "data": data}
    else:
        names = {"raw": "bytes", "url": "uri", "mediaType": "mimeType", "filename": "name"}
        fields = {"kind": "file", "file": {names[name]: part[name] for name in names if name in part}}
    return fields | ({"metadata": metadata} if metadata else {})


def _artifact_out(artifact: Mapping[str, Any]) -> Fields:
    return {**artifact, "parts": [_part_out(part) for part in artifact["parts"]]}


def _status_out(status: Mapping[str, Any]) -> Fields:
    state = status["state"].removeprefix(STATE_PREFIX).lower().replace("_", "-")
    message = {"message": _message_out(status["message"])} if "message" in status else {}
    return {**status, "state": state, **message}


def _object(value: object, place: str) -> Fields:
    if not isinstance(value, dict):
        raise invalid_params(place, "must be an object")
    return cast("Fields", value)
