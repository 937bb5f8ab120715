"""Reports made on demand, once for as long as a folder's files stay as they are, and kept in the cache folder.

From files alone a report takes a moment and is made here. One that evaluates val again is left to a process of its own,
`jaxfer report`, one at a time: it takes seconds to minutes, and what it loads is gone with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxfer import __version__, cache_folder, reports
from jaxfer.errors import InputError
from jaxfer.ui import places

KEPT = 200_000_000  # bytes of pages
QUICK, EVALUATED = "quick", "evaluated"
SOURCES = Path(reports.__file__).parent


class Waiting(Exception):
    """A report that is being made.

    Attributes:
      seconds: since it was asked for.
      before: reports that are made before it.
    """

    def __init__(self, seconds: float, before: int):
        super().__init__()
        self.seconds, self.before = seconds, before


class Reports:
    """The reports on what lies below a folder."""

    def __init__(self, root: Path):
        self._root = root
        self._own = ""  # a temporary folder
        self._folder = self._place()
        self._lock = threading.Lock()
        self._quickly: dict[Path, threading.Lock] = {}  # of those that are made here
        self._asked: dict[Path, float] = {}  # when, of those that wait or are being made
        self._failed: dict[Path, str] = {}
        self._pool = ThreadPoolExecutor(1, "evaluated")
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def _place(self) -> Path:
        """The cache's folder for pages; a temporary one where there is none, or where it would be served itself."""
        cache, bound = cache_folder.root(), os.path.join(os.path.realpath(self._root), "")
        if cache is not None and not os.path.join(os.path.realpath(cache), "").startswith(bound):
            with contextlib.suppress(OSError):
                (cache / "ui").mkdir(parents=True, exist_ok=True)
                if os.access(cache / "ui", os.W_OK):
                    return cache / "ui"
        self._own = tempfile.mkdtemp(prefix="jaxfer-ui-")
        return Path(self._own)

    def quick(self, folder: Path) -> str:
        """The report from files alone, as HTML; others that ask for it meanwhile wait.

        Raises:
          InputError: there is none, as `jaxfer.report` says.
        """
        path = self._path(folder, QUICK)
        if (text := _read(path)) is not None:
            return text
        with self._lock:
            one = self._quickly.setdefault(path, threading.Lock())
        with one:
            try:
                if (text := _read(path)) is None:
                    text = reports.made(folder, evaluate=False).html()[0]
                    self._keep(path, text)
            except InputError:
                raise
            except (Exception, SystemExit) as error:  # of a file of the user's own, or of a foreign one
                reason = (str(error).splitlines() or [""])[0]
                raise InputError(f"no report can be made of {folder} ({type(error).__name__}: {reason})") from error
            finally:
                with self._lock:  # not before it is kept: whoever comes now finds the page or this lock
                    self._quickly.pop(path, None)
        return text

    def evaluated(self, folder: Path) -> str:
        """The report that `jaxfer report` makes, as HTML.

        Raises:
          InputError: there is none, as `jaxfer report` said; it is not tried again before the files change.
          Waiting: it is being made.
        """
        path = self._path(folder, EVALUATED)
        with self._lock:
            if path in self._failed:
                raise InputError(self._failed[path])
            if path not in self._asked:
                if (text := _read(path)) is not None:
                    return text
                self._asked[path] = time.monotonic()
                self._pool.submit(self._make, folder, path)
            before = list(self._asked).index(path)
            raise Waiting(time.monotonic() - self._asked[path], before)

    def close(self) -> None:
        """Ends what is being made."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # and what it has started
        self._pool.shutdown(cancel_futures=True)
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)

    def _path(self, folder: Path, how: str) -> Path:
        """The page's file: named by the folder, then by all that the page depends on."""
        state = f"{__version__} {places.fingerprint(SOURCES, SOURCES)} {places.fingerprint(self._root, folder)}"
        return self._folder / f"{_digest(os.path.realpath(folder))}-{how}-{_digest(state)}.html"

    def _keep(self, path: Path, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk costs time and nothing else
            cache_folder.write(path, text.encode(errors="backslashreplace"))
            self._tidy(path)

    def _tidy(self, path: Path) -> None:
        """Removes the page's older versions, and others where they take too much room."""
        for other in self._folder.glob(f"{path.name.rpartition('-')[0]}-*.html"):
            if other != path:
                other.unlink(missing_ok=True)
        cache_folder.make_room(self._folder, KEPT)

    def _make(self, folder: Path, path: Path) -> None:
        try:
            problem = self._run(folder, path)
            if not problem:
                with contextlib.suppress(OSError):
                    self._tidy(path)
        except Exception as error:
            problem = f"no report can be made of {folder} ({type(error).__name__}: {error})"
        with self._lock:
            del self._asked[path]
            if problem:
                self._failed[path] = problem

    def _run(self, folder: Path, path: Path) -> str:
        """Has `jaxfer report` write the page; returns what it says is wrong, or nothing.

        It leaves accelerators to the runs that train, and is told of no Ctrl-C, which `close` answers.
        """
        settings = {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
        if self._own:
            settings[cache_folder.VARIABLE] = cache_folder.OFF
        command = [sys.executable, "-m", "jaxfer", "report", str(folder), "--out", str(path)]
        with tempfile.TemporaryFile() as said:
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
            with self._lock:
                if self._closed:
                    return "the server is ending"
                self._process = subprocess.Popen(command, env=os.environ | settings, start_new_session=True, **quiet)
            code = self._process.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if code == 0 and path.exists():
            return ""
        return (lines or ["nothing was said"])[-1].removeprefix("error: ") + (
            "" if code == 2 else f" (exit code {code})"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]


def _read(path: Path) -> str | None:
    try:
        text = path.read_text()
        os.utime(path)  # the last used are kept
    except OSError:
        return None
    return text
