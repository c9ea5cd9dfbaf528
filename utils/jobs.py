"""run.pl, queue.pl and slurm.pl.

Python 3.8's standard library is all this needs, for it runs on head nodes outside the recipe's environment.
"""

from __future__ import annotations

import sys

from jobs_request import JobError, parse


def main(program: str) -> int:
    """Run a runner by name with the words of the command line; its exit status: 0, 1, 2 or 75."""
    try:
        request = parse(program, sys.argv[1:])
        if program == "run.pl":
            import jobs_local

            return jobs_local.run(request)
        import jobs_cluster

        return jobs_cluster.run(request)
    except JobError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
