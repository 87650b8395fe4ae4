"""A terminal for tests: programs run in a pseudo-terminal, and what a user would see of what they write."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress


def run(
    *commands: Sequence[str],
    folder: str | os.PathLike,
    environment: Mapping[str, str],
    look: Callable[[str], None] = lambda written: None,
) -> str:
    """The output of programs that run at the same time in one terminal. look: at what has been written so far."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 100, 0, 0))
    started = [
        subprocess.Popen(command, cwd=folder, env={**environment, "TERM": "xterm"}, stdout=theirs, stderr=theirs)
        for command in commands
    ]
    os.close(theirs)
    written = b""
    try:
        with suppress(OSError):  # the other end is closed
            while select.select([ours], [], [], 240)[0]:
                written += os.read(ours, 65536)
                look(written.decode(errors="replace"))
        codes = [process.wait(timeout=10) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
        os.close(ours)
    assert not any(codes), written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that stand there afterwards, as if the terminal were endlessly high; colors are left out."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part[0] != "\x1b":
            old = lines[row].ljust(column)
            lines[row] = old[:column] + part + old[column + len(part) :]
            column += len(part)
        elif part[-1] == "A":
            row -= int(part[2:-1] or 1)
        elif part[-1] == "K":
            lines[row] = lines[row][:column]
        elif part[-1] == "J":
            lines[row:] = [lines[row][:column]]
        elif part[-1] != "m":
            raise AssertionError(f"{part!r} is not known")
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]
