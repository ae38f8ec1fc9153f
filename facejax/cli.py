"""What all commands share: options that fail with one line, and exit statuses."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from facejax import allocator, compiled
from facejax.errors import UserError, nearest


def main(
    run: Callable[[list[str]], int | None], leave: Callable[[int], NoReturn] = sys.exit
) -> NoReturn:
    """Runs a command on the process's arguments and leaves with its status.

    0 done, or what `run` returns; 2 and 3 from `UserError` and `TrainingFailed`, each printed as
    one line `error: <where>: <what>; <remedy>` on stderr; 130 interrupted. Any other exception is a
    bug and shows its traceback.
    """
    allocator.settle()
    compiled.keep()
    try:
        status = run(sys.argv[1:]) or 0
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    leave(status)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s; options can't be abbreviated."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs, allow_abbrev=False)

    def parse_known(self, argv: list[str], *prefixes: str) -> tuple:
        """Parses `argv`.

        Returns:
            The options, and for each prefix a dict of strings: what `--<prefix>.<key>=<value>` say.

        Raises:
            UserError: an unknown option, a missing one or a value of the wrong type.
        """
        options, rest = self.parse_known_args(argv)
        free = {prefix: {} for prefix in prefixes}
        for argument in rest:
            flag, equals, value = argument.partition("=")
            prefix, dot, key = flag.removeprefix("--").partition(".")
            if not flag.startswith("--") or not dot or prefix not in free:
                legal = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
                raise UserError(flag, "unknown option", nearest(flag, legal))
            if not equals:
                raise UserError(flag, "has no value", f"write {flag}=VALUE")
            free[prefix][key] = value
        return options, *free.values()

    def error(self, message: str) -> NoReturn:
        raise UserError("command line", message, "see --help")
