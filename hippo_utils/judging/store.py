"""Replies on disk as they arrive: an append-only file of JSON lines, found again by the hash of what was asked.

A line is written with one call and ends with a line break; a line without one is a write that was cut short (the process
was killed) and does not count. Nothing is ever changed or removed, so a file that survives is a file that can be used. It
holds against the death of the process; after a power failure the last lines may be missing and are asked for again.
"""

import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path

from hippo_utils.manifest import StageError


def key_of(*parts) -> str:
    """The sha256 under which a reply is stored: everything that decides what the judge would say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Store:
    """The replies of one judge. Use as a context manager: a second process that wants the same file waits for its turn."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock = threading.Lock()

    def __enter__(self) -> "Store":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._wait()
            content = self.path.read_bytes()
        except OSError as error:
            raise StageError(f"the verdicts in {self.path} cannot be opened ({error.strerror}); free the place or move the file away") from None
        self._replies = {}
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
                self._replies[entry.pop("key")] = entry
            except (ValueError, KeyError, AttributeError):  # cut short, once upon a time
                pass
        if content and not content.endswith(b"\n"):
            os.write(self._file, b"\n")  # so that the next line is a line
        return self

    def _wait(self) -> None:
        """Take the file for this process; the operating system gives it back however the process ends."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is asking the same judge; waiting for it", flush=True)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_) -> None:
        os.close(self._file)

    def get(self, key: str) -> dict | None:
        return self._replies.get(key)

    def put(self, key: str, entry: dict) -> None:
        """Store one reply; on return it survives the death of this process."""
        line = (json.dumps({"key": key} | entry) + "\n").encode()
        with self._lock:
            try:
                whole = os.write(self._file, line) == len(line)
            except OSError:
                whole = False
            if not whole:
                raise StageError(f"the disk did not take a verdict ({self.path}); free some space and start again: what is stored stays")
            self._replies[key] = entry
