#!/usr/bin/env python3
# Python, with the name and the interface of Kaldi's slurm.pl; the program is utils/jobs/.
import sys

if sys.version_info < (3, 8):
    sys.exit("slurm.pl: needs Python 3.8 or later as python3")
from jobs.main import main

sys.exit(main("slurm.pl"))
