"""The emulator of Google Cloud Storage, with what it leaves out.

Run by emulator.py in the emulator's own environment. Added here:

* generation preconditions of uploads, by which one of two writers wins;
* pages of listings;
* uploads to the last byte (its parser takes a CR at the end for a line's);
* buckets called ``readonly-...``, in which nobody may write;
* ``GET /requests``: the requests since the last time this was asked.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from http import HTTPStatus, server

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

PAGE = 100  # smaller than Google's, so that a test sees several
requests: list[str] = []
# Preconditions of uploads that come in parts.
conditional: dict[str, tuple[str, str, str]] = {}


def refuse(response, status, message):
    response.status = status
    response.json({"error": {"code": status.value, "message": message}})


def generation(storage, bucket, name):
    try:
        return str(storage.get_file_obj(bucket, name).get("generation") or 1)
    except NotFound:
        return "0"


def insert(request, response, storage):
    bucket = request.params["bucket_name"]
    if bucket.startswith("readonly-"):
        refuse(response, HTTPStatus.FORBIDDEN, "no storage.objects.create")
        return
    wanted = request.query.get("ifGenerationMatch")
    if not wanted:
        objects.insert(request, response, storage)
        return
    data = request.data
    meta = data.get("meta", data) if isinstance(data, dict) else {}
    name = meta.get("name") or request.query["name"][0]
    if generation(storage, bucket, name) != wanted[0]:
        refuse(response, HTTPStatus.PRECONDITION_FAILED, "conditionNotMet")
        return
    objects.insert(request, response, storage)
    if request.query["uploadType"] == ["resumable"]:
        upload = re.search("upload_id=([^&]+)", response["Location"])[1]
        conditional[upload] = (bucket, name, wanted[0])


def upload_partial(request, response, storage):
    upload = request.query["upload_id"][0]
    bucket, name, wanted = conditional.get(upload, ("", "", "0"))
    if bucket and generation(storage, bucket, name) != wanted:
        _ = request.data  # or the connection breaks before the answer
        refuse(response, HTTPStatus.PRECONDITION_FAILED, "conditionNotMet")
        return
    objects.upload_partial(request, response, storage)


def ls(request, response, storage):
    whole = Capture()
    objects.ls(request, whole, storage)
    if whole.content is None:
        response.status = whole.status
        return
    named = [(i["name"], i) for i in whole.content.get("items") or []]
    named += [(p, p) for p in whole.content.get("prefixes") or []]
    after = request.query.get("pageToken", [""])[0]
    left = sorted((ne for ne in named if ne[0] > after), key=lambda ne: ne[0])
    size = min(int(request.query.get("maxResults", [PAGE])[0]), PAGE)
    page = [entry for _, entry in left[:size]]
    answer = {
        "kind": "storage#objects",
        "items": [entry for entry in page if isinstance(entry, dict)],
        "prefixes": [entry for entry in page if isinstance(entry, str)],
    }
    if len(left) > size:
        answer["nextPageToken"] = left[size - 1][0]
    response.json(answer)


plain_data = emulator._read_data


def read_data(handler, query):
    kind = handler.headers.get("Content-Type") or ""
    if not kind.startswith("multipart/related"):
        return plain_data(handler, query)
    raw = emulator._read_raw_data(handler)
    boundary = b"--" + re.search('boundary="?([^";]+)', kind)[1].encode()
    end = b"\r\n" if boundary + b"\r\n" in raw else b"\n"
    _, meta, content, _ = raw.split(boundary)
    headers, _, body = content.removeprefix(end).partition(end + end)
    return {
        "meta": json.loads(meta.partition(end + end)[2]),
        "content": body.removesuffix(end),
        "content-type": headers.decode().partition(": ")[2].strip(),
    }


class Capture:
    status = HTTPStatus.OK
    content = None

    def json(self, content):
        self.content = content


def told(request, response, storage):
    response.json(requests)
    requests.clear()


class Handler(emulator.RequestHandler):
    def log_request(self, code="-", size="-"):
        if self.path != "/requests":
            requests.append(f"{self.command} {self.path}")


REPLACED = {
    objects.insert: insert,
    objects.upload_partial: upload_partial,
    objects.ls: ls,
}


def main():
    logging.disable()
    emulator._read_data = read_data
    emulator.HANDLERS = (
        (r"^/requests$", {"GET": told}),
        *(
            (path, {v: REPLACED.get(f, f) for v, f in handlers.items()})
            for path, handlers in emulator.HANDLERS
        ),
    )
    storage = Storage(use_memory_fs=True)
    # One request at a time, so that conditions hold until the write.
    httpd = server.HTTPServer(
        ("127.0.0.1", 0), lambda *args: Handler(storage, *args)
    )
    httpd.request_queue_size = 128
    httpd.socket.listen(128)
    print(f"http://127.0.0.1:{httpd.server_port}", flush=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
