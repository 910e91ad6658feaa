"""Compute Engine for tests, as strict as its discovery document.

Requests and answers are checked against the document that comes with
google-api-python-client: unknown paths, queries and fields are refused. What
no schema knows is written out here.
"""

# ruff: noqa: ARG002, N802, N815 - methods are called as the document has them

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ZONES = ("us-central1-a", "us-central1-b", "europe-west4-a")
MACHINES = {"e2-standard-4": 4, "n1-standard-8": 8, "g2-standard-4": 4}
GPUS = {"nvidia-tesla-t4", "nvidia-l4"}
NAME = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
LABEL = r"[-_a-z0-9]{0,63}"
BASE = "/compute/v1/"
# What gcloud sends with each list, and this version of the document lacks.
EXTRA = {"returnPartialSuccess": {"type": "boolean"}}
TYPES = {
    "any": object,
    "array": list,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "string": str,
}


@cache
def document() -> dict[str, Any]:
    import googleapiclient.discovery_cache as found

    path = Path(found.__file__).parent / "documents" / "compute.v1.json"
    return json.loads(path.read_text())


@cache
def routes() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    found = []
    todo = [document()["resources"]]
    while todo:
        for each in todo.pop().values():
            todo.append(each.get("resources", {}))
            for method in each.get("methods", {}).values():
                path = re.sub(r"{\+?(\w+)}", r"(?P<\1>[^/]+)", method["path"])
                found.append((method["httpMethod"], re.compile(path), method))
    return found


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Lost(Exception):
    """No answer."""


def invalid(message: str) -> Refusal:
    return Refusal(400, "invalid", message)


def check(schema: dict[str, Any], value: Any, where: str) -> None:
    """Refuse what the document does not know."""
    if "$ref" in schema:
        schema = document()["schemas"][schema["$ref"]]
    kind = schema.get("type", "object")
    if not isinstance(value, TYPES[kind]) or (
        kind in {"integer", "number"} and isinstance(value, bool)
    ):
        raise invalid(f"Invalid value for field '{where}': not {kind}")
    if kind == "array":
        for i, each in enumerate(value):
            check(schema["items"], each, f"{where}[{i}]")
    elif kind == "object":
        check_object(schema, value, where)
    elif kind == "string":
        check_string(schema, value, where)


def check_object(schema: dict[str, Any], value: dict, where: str) -> None:
    known = schema.get("properties", {})
    for name, each in value.items():
        inner = known.get(name, schema.get("additionalProperties"))
        if inner is None:
            raise invalid(f"Unknown name '{name}' at '{where}'")
        check(inner, each, f"{where}.{name}")


def check_string(schema: dict[str, Any], value: str, where: str) -> None:
    form = schema.get("pattern", ".*")
    if schema.get("format") in {"int64", "uint64"}:
        form = r"-?\d+"
    choice = schema.get("enum", [value])
    if value not in choice or not re.fullmatch(form, value, re.DOTALL):
        raise invalid(f"Invalid value for field '{where}': '{value}'")


class Instance:
    def __init__(self, project, zone, name, properties, now) -> None:
        self.zone, self.name, self.properties = zone, name, properties
        self.project, self.created = project, now
        self.gone_at = float("inf")
        run = properties["scheduling"].get("maxRunDuration")
        if run:
            self.gone_at = now + int(run["seconds"])
        self.is_stopping = False
        self.guest: dict[tuple[str, str], str] = {}


class Compute:
    """The cloud: what is there, by a clock; and what is asked of it.

    Attributes:
        calls: Ids of the methods that were called, in order.
        faults: What happens at the n-th call, from 1: an error's code and
            reason, or a function, called when it was done, before the answer.
        sold_out: Zones without machines.
        quotas: How many CPUs a region may have.
        terse: How many reasons it leaves out where it has not enough.
        token: Whom it serves; everybody if empty.
        boot_seconds: From a request to a machine that runs.
        stop_seconds: From a request to a machine that is gone.
        lag: Seconds until machines are listed.
        guest: Guest attributes that all machines have once they run.
        silent: Zones that do not answer.
        complaints: What of its own answers is not right.
    """

    def __init__(self, today: Callable[[], float] = time.time) -> None:
        self.today = today
        self.lock = threading.RLock()
        self._instances: dict[tuple[str, str], Instance] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._requests: dict[str, str] = {}
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.faults: dict[int, tuple[int, str] | Callable[[], None]] = {}
        self.sold_out: set[str] = set()
        self.quotas: dict[str, int] = {}
        self.terse = 0
        self.token = ""
        self.boot_seconds, self.stop_seconds = 30.0, 20.0
        self.operation_seconds, self.lag = 5.0, 0.0
        self.guest: dict[tuple[str, str], str] = {}
        self.silent: set[str] = set()
        self.complaints: list[str] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), make_handler(self)
        )
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        ).start()
        self.port = self._server.server_port
        self.root = f"http://127.0.0.1:{self.port}"
        self.endpoint = f"{self.root}{BASE}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def names(self) -> list[str]:
        with self.lock:
            return sorted(each.name for each in self._visible())

    def find(self, name: str) -> Instance:
        (found,) = [i for i in self._visible() if i.name == name]
        return found

    # What it does

    def handle(self, verb, target, headers, content) -> dict[str, Any]:
        parts = urlsplit(target)
        method, places = route(verb, parts.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        with self.lock:
            self.calls.append(method["id"].removeprefix("compute."))
            fault = self.faults.get(len(self.calls))
            if isinstance(fault, tuple):
                raise Refusal(*fault, "a fault of this test")
            wanted = f"Bearer {self.token}"
            if self.token and headers.get("authorization") != wanted:
                raise Refusal(401, "authError", "Invalid Credentials")
            answer = self._answer(method, places, query, content)
        if fault is not None:
            fault()
        return answer

    def _answer(self, method, places, query, content) -> dict[str, Any]:
        known = method["parameters"] | document()["parameters"] | EXTRA
        for name, value in {**query, **places}.items():
            if name not in known:
                raise invalid(f"Unknown query '{name}'")
            if known[name]["type"] == "string":
                check(known[name], value, name)
        if places.get("zone", ZONES[0]) not in ZONES:
            zone = places["zone"]
            raise Refusal(404, "notFound", f"The zone '{zone}' was not found")
        body = json.loads(content) if content else {}
        if "request" in method:
            check(method["request"], body, "resource")
            self.bodies.append(body)
        name = method["id"].removeprefix("compute.").replace(".", "_")
        work = getattr(self, f"_{name}", None)
        if work is None:
            raise Refusal(501, "notImplemented", f"not here: {method['id']}")
        answer = work(places, query, body)
        try:
            check(method["response"], answer, "answer")
        except Refusal as error:
            self.complaints.append(str(error))
        return answer

    def _instances_bulkInsert(self, places, query, body):
        project, zone = places["project"], places["zone"]
        if (known := query.get("requestId")) in self._requests:
            return self._show(self._requests[known])
        names, properties = (
            list(body["perInstanceProperties"]),
            check_rules(body),
        )
        for name in names:
            if (zone, name) in self._instances:
                raise Refusal(409, "alreadyExists", f"'{name}' already exists")
        errors = self._lack(zone, len(names), properties["machineType"])
        if errors:
            # What bulkInsert says of minCount stands before the reason, which
            # is not always given.
            known = "VM_MIN_COUNT_NOT_REACHED"
            text = f"Requested minimum count of {len(names)} VMs"
            errors = [{"code": known, "message": text}, *errors[self.terse :]]
        now = self.today()
        for name in [] if errors else names:
            self._instances[zone, name] = Instance(
                project, zone, name, properties, now
            )
        operation = self._operate(places, "bulkInsert", errors)
        if known:
            self._requests[known] = operation["name"]
        return operation

    def _instances_delete(self, places, query, body):
        instance = self._get(places)
        if not instance.is_stopping:
            instance.is_stopping = True
            instance.gone_at = self.today() + self.stop_seconds
        return self._operate(places, "delete", [], instance.name)

    def _instances_setLabels(self, places, query, body):
        instance = self._get(places)
        if body.get("labelFingerprint") != self._print(instance):
            raise Refusal(412, "conditionNotMet", "Labels fingerprint either")
        instance.properties = {
            **instance.properties,
            "labels": body["labels"],
        }
        return self._operate(places, "setLabels", [], instance.name)

    def _print(self, instance: Instance) -> str:
        """Fingerprint the labels of a machine."""
        labels = sorted(instance.properties.get("labels", {}).items())
        return base64.b64encode(repr(labels).encode()).decode()

    def _instances_get(self, places, query, body):
        return self._describe(self._get(places))

    def _instances_list(self, places, query, body):
        found = [
            i
            for i in self._select(query.get("filter", ""))
            if i.zone == places["zone"]
        ]
        return {"items": [self._describe(i) for i in found]}

    def _instances_aggregatedList(self, places, query, body):
        found = sorted(
            self._select(query.get("filter", "")), key=lambda i: i.name
        )
        first = int(query.get("pageToken") or 0)
        last = first + int(query.get("maxResults", 500))
        items: dict[str, Any] = {f"zones/{zone}": {} for zone in ZONES}
        for each in found[first:last]:
            scope = items[f"zones/{each.zone}"]
            scope.setdefault("instances", []).append(self._describe(each))
        for zone in self.silent:
            items[f"zones/{zone}"] = {"warning": {"code": "UNREACHABLE"}}
        answer = {"kind": "compute#instanceAggregatedList", "items": items}
        if last < len(found):
            answer["nextPageToken"] = str(last)
        return answer

    def _instances_getGuestAttributes(self, places, query, body):
        instance, path = self._get(places), query.get("queryPath", "")
        found = dict(instance.guest)
        if self._status(instance) == "RUNNING":
            found = self.guest | found
        items = [
            {"namespace": space, "key": key, "value": value}
            for (space, key), value in found.items()
            if f"{space}/{key}".startswith(path)
        ]
        if not items:
            raise Refusal(404, "notFound", f"'{path}' was not found")
        return {"queryPath": path, "queryValue": {"items": items}}

    def _instances_getSerialPortOutput(self, places, query, body):
        return {"contents": f"{self._get(places).name} booted\n"}

    def _zoneOperations_get(self, places, query, body):
        if places["operation"] not in self._operations:
            raise Refusal(404, "notFound", "no such operation")
        return self._show(places["operation"])

    _zoneOperations_wait = _zoneOperations_get

    # What it knows

    def _visible(self) -> list[Instance]:
        now = self.today()
        for key in [k for k, i in self._instances.items() if i.gone_at <= now]:
            del self._instances[key]
        return [
            i for i in self._instances.values() if i.created + self.lag <= now
        ]

    def _get(self, places) -> Instance:
        for each in self._visible():
            if (each.zone, each.name) == (places["zone"], places["instance"]):
                return each
        name = places["instance"]
        raise Refusal(404, "notFound", f"The instance '{name}' was not found")

    def _select(self, text: str) -> list[Instance]:
        found = self._visible()
        for term in re.split(r"\s+AND\s+", text) if text else ():
            found = [i for i in found if matches(term.strip("() "), i)]
        return found

    def _status(self, instance: Instance) -> str:
        if instance.is_stopping:
            return "STOPPING"
        age = (self.today() - instance.created) / (self.boot_seconds or 1e-9)
        return ("PROVISIONING", "STAGING", "RUNNING")[min(2, int(age * 2))]

    def _lack(self, zone, number, machine) -> list[dict[str, Any]]:
        found = []
        if zone in self.sold_out:
            code = "ZONE_RESOURCE_POOL_EXHAUSTED"
            message = f"The zone '{zone}' does not have enough resources"
            found.append({"code": code, "message": message})
        region = zone.rpartition("-")[0]
        limit = self.quotas.get(region, 10**9)
        used = Counter(
            i.zone.rpartition("-")[0] for i in self._instances.values()
        )[region]
        if (used + number) * MACHINES[machine] > limit:
            info = {
                "metricName": "compute.googleapis.com/cpus",
                "limitName": "CPUS-per-project-region",
                "dimensions": {"region": region},
                "limit": limit,
            }
            found.append(
                {
                    "code": "QUOTA_EXCEEDED",
                    "message": f"Quota 'CPUS' exceeded. Limit: {limit}",
                    "errorDetails": [{"quotaInfo": info}],
                }
            )
        return found

    def _operate(self, places, kind, errors, target="") -> dict[str, Any]:
        name = f"operation-{len(self._operations)}"
        project, zone = places["project"], places["zone"]
        zone = f"{self.endpoint}projects/{project}/zones/{zone}"
        self._operations[name] = {
            "kind": "compute#operation",
            "name": name,
            "id": str(len(self._operations) + 1),
            "zone": zone,
            "operationType": kind,
            "targetLink": f"{zone}/instances/{target}",
            "selfLink": f"{zone}/operations/{name}",
            "insertTime": stamp(self.today()),
            "started": self.today(),
            "errors": errors,
        }
        return self._show(name)

    def _show(self, name: str) -> dict[str, Any]:
        found = dict(self._operations[name])
        errors = found.pop("errors")
        age = self.today() - found.pop("started")
        is_done = age >= self.operation_seconds
        share = 1.0 if is_done else age / self.operation_seconds
        if share == 1 and errors:
            found["error"] = {"errors": errors}
            found["httpErrorStatusCode"] = 400
        found["progress"] = int(share * 100)
        found["status"] = (
            "DONE" if share == 1 else "RUNNING" if share else "PENDING"
        )
        return found

    def _describe(self, each: Instance) -> dict[str, Any]:
        zone = f"{self.endpoint}projects/{each.project}/zones/{each.zone}"
        machine = each.properties["machineType"]
        interface = dict(each.properties["networkInterfaces"][0])
        interface["networkIP"] = "127.0.0.1"
        interface["accessConfigs"] = [
            {**access, "natIP": "127.0.0.1"}
            for access in interface.get("accessConfigs", ())
        ]
        return {
            "kind": "compute#instance",
            "id": str(abs(hash(each.name))),
            "name": each.name,
            "zone": zone,
            "selfLink": f"{zone}/instances/{each.name}",
            "machineType": f"{zone}/machineTypes/{machine}",
            "status": self._status(each),
            "creationTimestamp": stamp(each.created),
            "labels": each.properties.get("labels", {}),
            "labelFingerprint": self._print(each),
            "metadata": each.properties["metadata"],
            "scheduling": each.properties["scheduling"],
            "networkInterfaces": [interface],
        }

    # What a machine sees of it

    def metadata(self, verb: str, path: str, content: bytes) -> str:
        _, _, _, name, _, _, _, what, *rest = path.split("/")
        with self.lock:
            instance = self.find(name)
            if verb == "PUT" and what == "guest-attributes":
                instance.guest[rest[0], rest[1]] = content.decode()
                return ""
            for item in instance.properties["metadata"]["items"]:
                if what == "attributes" and item["key"] == rest[0]:
                    return item["value"]
        raise Refusal(404, "notFound", path)


def check_rules(body: dict[str, Any]) -> dict[str, Any]:
    """Refuse what the document allows, and Compute Engine does not."""
    names, properties = (
        body["perInstanceProperties"],
        body["instanceProperties"],
    )
    for name in names:
        if not re.fullmatch(NAME, name):
            raise invalid(f"Invalid value for field 'name': '{name}'")
    if not int(body["minCount"]) <= int(body["count"]) == len(names):
        raise invalid("count does not fit")
    for name in ("machineType", "disks", "networkInterfaces", "scheduling"):
        if not properties.get(name):
            raise Refusal(400, "required", f"'{name}' is required")
    if properties["machineType"] not in MACHINES:
        machine = properties["machineType"]
        raise invalid(f"Machine type with name '{machine}' does not exist")
    if not all(
        re.fullmatch(LABEL, each)
        for pair in properties.get("labels", {}).items()
        for each in pair
    ):
        raise invalid("Invalid value for field 'labels'")
    check_scheduling(properties)
    properties.setdefault("metadata", {"items": []})
    return properties


def check_scheduling(properties: dict[str, Any]) -> None:
    scheduling = properties["scheduling"]
    run = scheduling.get("maxRunDuration")
    if run and not 30 <= int(run["seconds"]) <= 120 * 86400:
        raise invalid("maxRunDuration must be from 30 s to 120 days")
    if run and "instanceTerminationAction" not in scheduling:
        raise invalid("maxRunDuration needs instanceTerminationAction")
    for gpu in properties.get("guestAccelerators", ()):
        if gpu["acceleratorType"] not in GPUS:
            raise invalid(f"no such accelerator: {gpu['acceleratorType']}")
        if scheduling.get("onHostMaintenance") != "TERMINATE":
            raise invalid("GPUs do not support live migration")


def matches(term: str, instance: Instance) -> bool:
    labels = instance.properties.get("labels", {})
    if found := re.fullmatch(r"labels\.([-\w]+):\*", term):
        return found[1] in labels
    if found := re.fullmatch(r"labels\.([-\w]+)=([-\w]+)", term):
        return labels.get(found[1]) == found[2]
    if found := re.fullmatch(r'name eq "?(.+?)"?', term):
        return re.fullmatch(found[1], instance.name) is not None
    raise invalid(f"Invalid value for field 'filter': '{term}'")


def route(verb: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    for known, form, method in routes():
        if known == verb and (found := form.fullmatch(path[len(BASE) :])):
            return method, found.groupdict()
    raise Refusal(404, "notFound", f"{verb} {path}")


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def make_handler(compute: Compute) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = 1 << 16, True

        def answer(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            content, code = self.rfile.read(size), 200
            try:
                if self.path.startswith("/metadata/"):
                    text = compute.metadata(self.command, self.path, content)
                else:
                    found = compute.handle(
                        self.command, self.path, self.headers, content
                    )
                    text = json.dumps(found)
            except Lost:
                self.close_connection = True
                return
            except Refusal as error:
                code = error.code
                each = {"reason": error.reason, "message": str(error)}
                told = {"code": code, "message": str(error), "errors": [each]}
                text = json.dumps({"error": told})
            except Exception as error:  # noqa: BLE001 - a test looks at them
                compute.complaints.append(repr(error))
                code, text = 500, "{}"
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    return Handler
