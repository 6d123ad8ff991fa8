"""The one kind of error that the command line answers with a line instead of a traceback."""


class UserError(ValueError):
    """Something that the user gave cannot be used: a flag, or a file, folder or name that a flag points to.

    The message is written for the user: it names the thing, what was found, and what to do. The commands of
    this package print it as one line on standard error and end with exit status 2.
    """
