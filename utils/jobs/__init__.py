"""run.pl, queue.pl and slurm.pl.

Enters: a command line `[--option value]... [JOB=1:n] LOG COMMAND...`, and for a cluster conf/queue.conf or slurm.conf.
Leaves: a log for each task, messages on stderr, an exit status of 0, 1, 2 or 75; on a cluster scripts under `q/`.
Begin with main.py, then request.py, local.py (this machine) and cluster.py. Needs Python 3.8 and nothing else.
"""
