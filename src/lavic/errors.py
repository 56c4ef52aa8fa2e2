"""Errors that a user can mend; the command line turns each into one sentence and its exit code.

LavicError                 exit code 2, one sentence: where, what is wrong, what to do
├── InputError             a data file, a row of it, or a folder is not what it should be
│   ├── ImageError         a picture cannot be used (counted and skipped, rarely fatal)
│   └── NothingLeftError   every row was skipped
├── ConfigError            a flag, a YAML key or a combination of settings
├── ModelError             a checkpoint cannot be loaded, or is of another class
│   └── AdapterError       adapter weights that do not fit the model
├── OutputError            an output folder or file cannot be written or must not be replaced
└── TrainingError          the run itself went wrong (a loss that is not finite)
"""

from __future__ import annotations


def system_words(error: OSError | ValueError) -> str:
    """What the system says of a path: a ValueError too, which Python raises for one with a null character."""
    return str(getattr(error, "strerror", None) or error)


class LavicError(Exception):
    """A problem with a place and a mend.

    Args:
        problem: what is wrong, a clause without a full stop at its end.
        where: file, line, key, or flag; shown before the problem.
        remedy: what the user can do, a sentence of its own.
    """

    exit_code = 2

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.where = where
        self.remedy = remedy
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """The whole message on one line."""
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        if not text.endswith((".", "!", "?")):
            text += "."
        if self.remedy:
            text += f" {self.remedy}"
        return " ".join(text.split())


class InputError(LavicError):
    """A data file, a row of it, or a folder is not what it should be."""


class ImageError(InputError):
    """A picture that cannot be used; ``problem`` is the reason that lands in ``skipped.jsonl``."""


class NothingLeftError(InputError):
    """Every row was left out."""


class ConfigError(LavicError):
    """A flag, a configuration key, or settings that exclude each other."""


class ModelError(LavicError):
    """A checkpoint that cannot be loaded or is of another class."""


class AdapterError(ModelError):
    """Adapter weights that do not fit the model."""


class OutputError(LavicError):
    """An output folder or file that cannot be written or must not be replaced."""


class TrainingError(LavicError):
    """The run itself went wrong; the last good checkpoint is kept."""
