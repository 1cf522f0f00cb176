"""Signals in the worker processes of a loader."""

from __future__ import annotations

import os
import signal
import threading


def outlive_signals() -> None:
    """Let only the main process end this worker.

    Ctrl-C and clusters signal all processes of a run. The main process finishes its step and ends the workers then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # it tells the sender; macOS does not have it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_main_process_asks, daemon=True).start()


def _end_when_the_main_process_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
