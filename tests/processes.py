"""Processes of their own for what must be killed, limited or run beside others.

They are forked from a server that has imported the package, so that they start in a tenth of a
second rather than in seven of a processor. The server begins with the first of them.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("grammar_lens.cli", "grammar_lens.runs.pipeline", "grammar_lens.runs.run"),
        *("grammar_lens.report.page", "grammar_lens.explorer.app", "sklearn.linear_model"),
        *("transformers.models.llama.modeling_llama", "transformer_lens.model_bridge"),
        *("transformer_lens.model_bridge.sources.transformers", "torch.distributed"),
        "grammar_lens.certification.certify",
    ]
)


@dataclass(frozen=True)
class Running:
    """A process that was started, with what it writes."""

    process: ForkServerProcess
    out: Path
    err: Path

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return self.out.read_text("utf-8")

    @property
    def stderr(self) -> str:
        return self.err.read_text("utf-8")

    def ended(self, seconds: float = 120) -> int:
        """The exit code, once it has ended by itself. Raises AssertionError if it does not."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"still running after {seconds:g} s: {self.stderr[-2000:]}")
        return code

    def interrupt(self) -> None:
        """Ctrl-C."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> int | None:
        """Ends it by SIGKILL; the exit code, which is another if it had ended before."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode

    def until(self, reached: Callable[[], object], seconds: float = 120) -> None:
        """Waits for something. Raises AssertionError if the process ends before, or time runs out."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.code is None, f"it ended before: {self.stderr[-2000:]}"
            assert time.monotonic() < end, "it was not reached in time"
            time.sleep(0.01)


def start(
    function: Callable[..., object],
    *arguments: Any,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Running:
    """Calls a function of a module in a process whose output goes to files of the folder."""
    n = len(list(folder.glob("process*.out")))
    out, err = folder / f"process{n}.out", folder / f"process{n}.err"
    out.touch()
    err.touch()
    process = CONTEXT.Process(
        target=_call, args=(function, arguments, out, err, dict(environment or {})), daemon=True
    )
    process.start()
    return Running(process, out, err)


def command(
    *arguments: object, folder: Path, environment: Mapping[str, str] | None = None
) -> Running:
    """Starts `grammar-lens ARGUMENTS`."""
    return start(run_command, [str(a) for a in arguments], folder=folder, environment=environment)


def group(n: int) -> list[dict[str, str]]:
    """The environments of `n` processes that work together, as torchrun would set them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    return [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(n)]


def _call(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    out: Path,
    err: Path,
    environment: dict[str, str],
) -> None:
    import torch

    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    # of its own: the server's may have no encoding, and what it holds is another's
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)


def run_command(arguments: list[str]) -> None:
    """`grammar-lens ARGUMENTS`, in a process of its own."""
    from grammar_lens.cli import main

    sys.argv = ["grammar-lens", *arguments]
    main()
