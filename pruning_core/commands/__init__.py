"""The commands of the command line, one small file each.

A command has `HELP`, a few words for the list of commands, `add_options`, which declares what may
be given to it, and `run`, which carries it out. Torch and transformers are imported when a command
runs, so that help comes at once.
"""
