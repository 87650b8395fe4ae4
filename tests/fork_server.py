"""Scripts of a workflow in forks of one process that has loaded the libraries, which takes them seconds each.

    with fork_server.started(folder) as probe:  # a folder for PYTHONPATH
        snakemake(..., also_on_path=probe)

`python SCRIPT` then hands itself over: a fork of the server runs the script with its arguments, environment, working
directory and terminal, and the process that Snakemake started ends as the fork does, by the same signal if by one.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (
    "numpy", "pandas", "pyarrow.parquet", "PIL.Image", "tqdm", "jaxtyping", "safetensors.torch", "torch", "torchvision",
    "matplotlib.figure", "sklearn.linear_model", "diffusers", "transformers", "open_clip", "captum.attr", "cv2",
)  # fmt: skip

CLIENT = """
import json, os, socket, sys

if ".snakemake/scripts/" in sys.orig_argv[-1]:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect({address!r})
        script = os.path.abspath(sys.orig_argv[-1])
        request = {{"script": script, "folder": os.getcwd(), "environment": dict(os.environ)}}
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(request).encode())
        server.shutdown(socket.SHUT_WR)
        code = int(server.makefile().read())
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
"""


@contextmanager
def started(folder: Path, before: str = "") -> Iterator[Path]:
    """A server, and a folder for the PYTHONPATH of its clients. before: a program that every fork runs first."""
    probe, address = folder / "probe", folder / "server"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(CLIENT.format(address=str(address)))
    (probe / "before.py").write_text(before)
    # as the workflow sets them; libraries read them when they load
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    server = subprocess.Popen([sys.executable, __file__, address, probe / "before.py"], env=environment)
    try:
        while not address.exists():
            assert server.poll() is None, "the server did not start"
            time.sleep(0.05)
        yield probe
    finally:
        server.kill()
        server.wait()


def serve(address: str, before: str) -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen(64)
        os.rename(f"{address}.new", address)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(client, before)
                os._exit(0)
            client.close()


def answer(client: socket.socket, before: str) -> None:
    """Run one script in a fork, and say how that ended."""
    _, terminal, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().read())
    child = os.fork()
    if child == 0:
        client.close()
        run(request, terminal, before)
    _, status = os.waitpid(child, 0)
    client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    client.close()


def run(request: dict, terminal: list[int], before: str) -> None:
    for number, handle in enumerate(terminal):
        os.dup2(handle, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = sys.orig_argv = [request["script"]]
    sys.path[0] = os.path.dirname(request["script"])
    sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = 0
    try:
        runpy.run_path(before)
        runpy.run_path(request["script"], run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(*sys.argv[1:])
