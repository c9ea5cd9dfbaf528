"""One program a module, run as `python -m sermtl.bin.<verb>`: argument parsing and the steps of a stage.

In: the command line. Out: files, exit status (2: a `UserError`). Nothing imports them.
Begin with the stage of run.sh that calls the program.
"""
