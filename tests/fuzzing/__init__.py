"""Hostile files, made from numbers, and a runner that survives what they do.

A file is named by its kind and a number: the first numbers of a kind are attacks made by hand, the others mutations of
sound files, drawn from `numpy.random.default_rng` with that number. The files are read in a child process, one after
another, under a limit on time that the parent keeps and one on memory that the kernel keeps; a child that dies or hangs
is replaced. A file that came to an unexpected end is read again, in the foreground and with its traceback, from the
folder tests/ by

    python -m fuzzing KIND NUMBER [FILE to keep it in]
"""
