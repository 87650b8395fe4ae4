"""Python programs in forks of one process that has loaded the libraries, which takes every new process seconds.

    with fork_server.started(folder) as probe:
        subprocess.run([sys.executable, "-m", "snakemake"], env={**os.environ, "PYTHONPATH": f"{clone}:{probe}"})

With `probe` on the PYTHONPATH a new Python hands itself over: a fork runs the script, module or program with its
arguments, environment, working directory and terminal. The process ends as the fork does, by the same signal if by one,
and the fork with the process.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIBRARIES = (
    "numpy", "pandas", "pyarrow.parquet", "PIL.Image", "tqdm", "jaxtyping", "safetensors.torch", "torch", "torchvision",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "sklearn.linear_model",
    "pydantic", "jinja2", "kneed", "filelock", "diffusers", "transformers", "open_clip", "captum.attr", "cv2",
    "snakemake.cli", "snakemake.dag", "snakemake.workflow", "snakemake.scheduling.job_scheduler",
)  # fmt: skip
BEFORE = "HSFM_TEST_BEFORE"  # names a program that every fork runs first

CLIENT = """
import json, os, socket, sys

arguments = sys.orig_argv[1:] or [""]
named = arguments[0] in ("-c", "-m") or arguments[0].endswith((".py", "/snakemake"))
if named and not any("multiprocessing" in one for one in arguments):
    with socket.socket(socket.AF_UNIX) as server:
        server.connect({address!r})
        request = {{"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}}
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(request).encode())
        server.shutdown(socket.SHUT_WR)
        code = int(server.makefile().read())
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
"""


@contextmanager
def started(folder: Path) -> Iterator[Path]:
    probe, address = folder / "probe", folder / "server"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(CLIENT.format(address=str(address)))
    # as the workflow sets them; libraries read them when they load
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    server = subprocess.Popen([sys.executable, __file__, address], env=environment)
    try:
        while not address.exists():
            assert server.poll() is None, "the server did not start"
            time.sleep(0.05)
        yield probe
    finally:
        server.kill()
        server.wait()


def serve(address: str) -> None:
    parent = os.getppid()
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.dont_write_bytecode = False  # or every fork compiles the modules of its clone
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen(64)
        server.settimeout(10)
        os.rename(f"{address}.new", address)
        while os.getppid() == parent:
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(client)
                os._exit(0)
            client.close()


def answer(client: socket.socket) -> None:
    """Run one request in a fork, and say how that ended; when the client hangs up, end all that the fork started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client.setblocking(True)
    _, terminal, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().read())
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        client.close()
        run(request, terminal)
    ended, poll = os.pidfd_open(child), select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(client, 0)  # that it hangs up is always told
    if ended not in dict(poll.poll()):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run(request: dict, terminal: list[int]) -> None:
    for number, handle in enumerate(terminal):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = 0
    try:
        execute(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def execute(arguments: list[str]) -> None:
    if BEFORE in os.environ:
        runpy.run_path(os.environ[BEFORE])
    first, *rest = arguments
    sys.path[0] = os.getcwd() if first in ("-c", "-m") else os.path.dirname(first)
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.orig_argv = arguments
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])
