"""run.pl, queue.pl and slurm.pl.

Enters: a command line `[--option value]... [JOB=1:n] LOG COMMAND...`, and for a cluster conf/queue.conf or slurm.conf.
Leaves: a log for each task, messages on stderr, an exit status of 0, 1, 2 or 75; on a cluster scripts under `q/`.
Begin with request.py, then local.py (this machine) and cluster.py. Needs Python 3.8 and nothing else.
"""

import sys


def main(program: str) -> None:
    """Run a runner by name with the words of the command line, and exit with its status."""
    if sys.version_info < (3, 8):  # noqa: UP036 - a Python from outside the recipe's environment
        sys.exit(program + ": needs Python 3.8 or later as python3")
    from jobs.request import JobError, parse

    try:
        request = parse(program, sys.argv[1:])
        if program == "run.pl":
            from jobs.local import Runner

            sys.exit(Runner(request).run())
        from jobs.cluster import run

        sys.exit(run(request))
    except JobError as error:
        sys.exit(program + ": " + str(error))
