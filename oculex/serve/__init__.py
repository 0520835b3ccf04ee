"""A page about a run, for people to ask it: `oculex serve RUN`. It needs Gradio, which is imported here alone."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oculex.contracts import UserError
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf, shelf

MOST_BYTES = 20_000_000
"""Of an upload."""
KEPT = 3600
"""Seconds after which an upload is deleted; all of them are when the server stops."""


def serve(
    run: Path,
    images: str = "",
    index: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    device: str = "auto",
) -> None:
    """Serves the run's page until the process is interrupted (SIGINT) or asked to end (SIGTERM).

    ``images`` or ``index``: what is searched; without them what the run's data held out. ``port`` 0 takes a free one.
    ``host`` other than this machine, and ``share``, which goes through Gradio's servers, let others in. Raises UserError
    where Gradio is missing, the port is taken, or run, images or index cannot be opened.
    """
    _need_gradio()
    if images and index is not None:
        raise UserError("give either --images PATH or --index INDEX")
    opened = Opened.of(run, device)
    if images:
        print(f"encoding the pictures of {images}; `oculex index` would keep them encoded", flush=True)
    pictures = shelf(opened, images, index)
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _uploads(), Server(opened, pictures, host, port, share) as server:
            print(f"{opened.title} is at {server.url}  (Ctrl+C ends it)", flush=True)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print("ended", flush=True)


class Server:
    """A page that is being served, until it is closed. UserError where the port is taken."""

    def __init__(
        self,
        opened: Opened,
        pictures: Shelf | None,
        host: str = "127.0.0.1",
        port: int = 0,
        share: bool = False,
    ) -> None:
        from oculex.serve.page import build, look

        port = _free(host, port)
        self.page: Any = build(opened, pictures, KEPT)
        _, self.url, shared = self.page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,  # a user's mistake says so itself; of all else the terminal tells
            max_file_size=MOST_BYTES,
            allowed_paths=[],
            strict_cors=True,
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            **look(),
        )
        self.url = shared or self.url

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self.page.close(verbose=False)


@contextmanager
def _uploads() -> Iterator[None]:
    """A folder for uploads, which Gradio would keep for ever, and which goes with the server."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="oculex-serve-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def _need_gradio() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio looks: it calls home otherwise
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("serving a page needs gradio; pip install 'oculex[serve]'") from error


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0; Gradio would take the next and not say so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot listen on {host}:{port}: {why}; give another --port or --host"
            ) from error
        return probe.getsockname()[1]
