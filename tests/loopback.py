"""A server for downloads, on the loopback alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A server of `data`, the content by path, that misbehaves as told.

    cuts: how many bytes of the body the first answers send before the connection ends (None: all of it). statuses:
    what the first answers say instead of 200. requests: path of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.cuts, self.statuses, self.requests = {}, [], [], []


class Handler(BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self):
        self.server.requests.append(self.path)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        body = self.server.data[self.path] if status == 200 else b"an error page"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0) if self.server.cuts else None])

    def log_message(self, *arguments):
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers within the block."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
