"""Work that continues in the background while the page is open."""

import atexit
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

from grammar_lens.errors import GrammarLensError

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a program which ends waits for what is being made."""


class Background(Generic[T]):
    """A value that a thread makes once, and what became of it."""

    def __init__(self, what: str, make: Callable[[], T]) -> None:
        self.what = what
        self._make = make
        self._made: Future[T] = Future()

    def start(self) -> None:
        """Begins; to be called once. A program that ends meanwhile waits `PATIENCE` for it."""
        thread = Thread(target=self._work, name=self.what, daemon=True)
        thread.start()
        # Python ends such a thread within torch, which then aborts the whole program
        atexit.register(thread.join, PATIENCE)

    def _work(self) -> None:
        try:
            self._made.set_result(self._make())
        except Exception as error:  # whatever it is, the page reports it
            self._made.set_exception(error)

    @property
    def is_done(self) -> bool:
        """Whether there is a value, or never will be."""
        return self._made.done()

    @property
    def fault(self) -> str:
        """The reason why there is no value; empty while it is computed and when there is one."""
        if not self._made.done():
            return ""
        error = self._made.exception()
        return "" if error is None else str(error) or type(error).__name__

    def wait(self) -> T:
        """The value, as soon as it is there. Raises GrammarLensError if it could not be made."""
        error = self._made.exception()
        if error is not None:
            raise GrammarLensError(f"{self.what} is not available: {self.fault}") from error
        return self._made.result()

    def get(self) -> T:
        """The value. Raises GrammarLensError while it is being made, and if it could not be."""
        if not self._made.done():
            raise GrammarLensError(f"{self.what} is still loading: wait a moment")
        return self.wait()
