"""An emulator of Google Cloud Storage, asked by the real libraries."""

import contextlib
import socket

import pytest
from gcp_storage_emulator.server import create_server


@contextlib.contextmanager
def emulated():
    """Serves an empty bucket, "gs://bucket"."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):  # read by gcsfs, and by TensorStore
            patch.setenv(name, f"http://localhost:{port}")
        patch.setenv("NO_GCE_CHECK", "true")  # or google.auth asks whether this is one of Google's machines
        yield
    server.stop()
