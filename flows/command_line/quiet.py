"""Keep other libraries' messages off the terminal: they go to the run's own log."""

import logging
import os
import sys
import warnings
from pathlib import Path

from ftlib.storage.files import private_folder


def quiet_libraries() -> None:
    """Turn off banners and bars by environment; call it before the libraries are imported."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost factors where cores are shared
    }.items():
        os.environ.setdefault(name, value)


def log_to(path: Path) -> None:
    """Send all logging and warnings that would go to the terminal to a file; call it after prefect is imported.

    Where it cannot be written, one line says so, and what it would have held is dropped.
    """
    from prefect.logging.handlers import PrefectConsoleHandler

    file = _opened(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    for logger in [logging.root, *loggers]:
        for handler in list(logger.handlers):
            if isinstance(handler, PrefectConsoleHandler) or type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)
                logger.addHandler(file)
    if file not in logging.root.handlers:
        logging.root.addHandler(file)
    logging.setLoggerClass(_diverting(file))
    logging.captureWarnings(True)
    warnings.simplefilter("default")


class _LogFile(logging.FileHandler):
    """A file whose refusal is one line: logging itself prints a traceback a record, over the run's last words."""

    _refused = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._refused:
            self._refused = True
            _say_refused(Path(self.baseFilename), error)


def _opened(path: Path) -> logging.Handler:
    try:
        private_folder(path.parent)
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        _say_refused(path, error)
        return logging.NullHandler()


def _say_refused(path: Path, error: OSError) -> None:
    print(f"reglage: {path}: {error.strerror}; it goes on without this log", file=sys.stderr)


def _diverting(file: logging.Handler) -> type[logging.Logger]:
    """Return the class of loggers to come, of libraries imported later: they take `file` in place of the terminal."""

    class Diverting(logging.getLoggerClass()):
        def addHandler(self, hdlr: logging.Handler) -> None:
            super().addHandler(file if type(hdlr) is logging.StreamHandler else hdlr)

    return Diverting
