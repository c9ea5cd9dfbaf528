"""The three runners' common entry."""

from __future__ import annotations

import sys

from jobs.request import JobError, parse


def main(program: str) -> int:
    """Run a runner by name with the words of the command line; its exit status: 0, 1, 2 or 75."""
    try:
        request = parse(program, sys.argv[1:])
        if program == "run.pl":
            from jobs.local import Runner

            return Runner(request).run()
        from jobs.cluster import run

        return run(request)
    except JobError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
