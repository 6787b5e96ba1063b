"""Every exception and warning of the package."""


class UserError(ValueError):
    """Bad input from a person: the message says what was wrong and what to do.

    The command line prints it as one line and exits with code 2. Anything else that is raised is a
    fault of the workbook and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message alone."""
        return [f"UserError: {self}"]


class NoAnswer(UserError):
    """A publisher's server cannot be reached, or has stopped answering."""


class NoFingerprint(UserError):
    """A value that no hash can tell from its like, so that nothing can be kept under it."""


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


class NotebookFailed(RuntimeError):
    """A notebook raised, ran too long, or did not write what it promised."""


class NotYet(AssertionError):
    """An answer that its check does not accept; a notebook shows one line and no traceback."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own traceback before it makes one.
        return [f"Not yet: {self}"]


class DegenerateLayer(UserWarning):
    """At this layer two methods are the same map by construction; a gap between them is noise."""
