#!/usr/bin/env python3
import sys

if sys.version_info < (3, 8):
    sys.exit("queue.pl: needs Python 3.8 or later as python3")
from jobs import main

sys.exit(main("queue.pl"))
