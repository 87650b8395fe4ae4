"""A server for downloads, on the loopback alone."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """A server on the loopback that serves `data` and misbehaves as told.

    cuts: how many bytes of the body the first answers send before the connection ends (None: all of it). statuses:
    what the first answers say instead of 200. requests: path and Range header of each request. sent: bytes of bodies.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.etag, self.modified = DATA, '"one"', None
        self.ranges, self.length, self.chunked, self.shift = True, True, False, 0
        self.cuts, self.statuses, self.requests, self.sent = [], [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class Handler(BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.requests.append((self.path, wanted))
        status = server.statuses.pop(0) if server.statuses else 200
        if status is None:  # hangs up without an answer
            return
        data = server.data[self.path] if isinstance(server.data, dict) else server.data
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if status == 200 and start:
            status = 206 if start < len(data) else 416
        body = data[start:] if status in (200, 206) else b"an error page"
        self.send_response(status)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:99], body[99:], b""))
        elif server.length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.modified:
            self.send_header("Last-Modified", server.modified)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start - server.shift}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        server.sent.append(len(body[:cut]))  # before a client that has it all can look
        self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """One that answers within the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
