"""An S3 endpoint of the tests' own: a real HTTP server in its own process, buckets in memory."""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_SERVE = """
import logging
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Endpoint:
    """One running server."""

    url: str

    def make(self, bucket):
        self._files().mkdir(bucket)
        return f"s3://{bucket}/hub"

    def contents(self, bucket):
        """Return every object of a bucket, by key, without the program."""
        files = self._files()
        return {key: files.cat_file(key) for key in files.find(bucket)}

    def delete(self, key):
        self._files().rm_file(key)

    def write(self, key, data):
        self._files().pipe_file(key, data)

    def _files(self):
        import s3fs

        return s3fs.S3FileSystem(
            endpoint_url=self.url, skip_instance_cache=True, use_listings_cache=False
        )


@contextmanager
def serving():
    """Run an endpoint while the block does; skips where it is not installed."""
    for module in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(module, reason="the extra `s3` or its test server is not installed")
    process = subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE)
    try:
        yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.communicate()
