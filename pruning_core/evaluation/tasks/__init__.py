"""Accuracy on the field's zero-shot tasks: read, asked, scored by two paths that agree, kept safe.

`definitions` says what each task asks, `documents` reads its rows, `fast` scores them with shared
prefixes, `harness` lets lm-eval do it, `journal` keeps what is done, `accuracy` puts it together.
"""
