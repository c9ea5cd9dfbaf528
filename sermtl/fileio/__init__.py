"""Files that are whole or absent: Kaldi tables and arks, stamps, locks, plain text tables.

In: paths, ids, numbers. Out: files that other programs read, and their content checked line by line.
Begin with `files.atomic_write` and `tables.read_table`; `ark` is the only user of kaldiio.
"""
