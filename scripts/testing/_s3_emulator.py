"""The emulator of Amazon S3: moto.

Run by emulator.py in the emulator's own environment. In buckets called
``readonly-...`` nobody may write.
"""

from __future__ import annotations

import logging
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)


class Application:
    """One request at a time, so that conditions hold until the write."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        writes = environ["REQUEST_METHOD"] in {"PUT", "POST", "DELETE"}
        if writes and key and bucket.startswith("readonly-"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "text/xml")])
            return [DENIED]
        with self.lock:
            return self.moto(environ, start_response)


def main():
    logging.disable()
    httpd = make_server("127.0.0.1", 0, Application(), threaded=True)
    print(f"http://127.0.0.1:{httpd.port}", flush=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
