"""A child process that runs cells: `python -m fedkd.sweep.worker`. A JSON job in, a JSON result out."""

from __future__ import annotations

import json

from fedkd.federation.worker import serve
from fedkd.sweep.work import run_cell


def answer(job: bytes, _: bytes) -> bytes:
    """The result of one job."""
    return json.dumps(run_cell(json.loads(job))).encode()


if __name__ == "__main__":
    serve(lambda: answer)
