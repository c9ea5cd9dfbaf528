#!/usr/bin/env python3
# Python, with the name and the interface of Kaldi's run.pl; the program is utils/jobs/.
from jobs import main

main("run.pl")
