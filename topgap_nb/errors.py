"""The one exception that means: the input was wrong, and here is what to do."""


class UserError(ValueError):
    """Bad input from a person: the message says what was wrong and what to do.

    The command line prints it as one line and exits with code 2. Anything else that is raised is a
    fault of the workbook and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message alone."""
        return [f"UserError: {self}"]
