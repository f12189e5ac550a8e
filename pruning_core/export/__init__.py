"""Keeping a pruned model: formats that other software opens, and the proof that they hold it.

`exporting` walks the whole way. `shelf` has the tensors, `layout` finds the config that stock code
builds them from, one file under `formats` is one format, and `proof` has every export loaded in a
process that knows nothing of us.
"""
