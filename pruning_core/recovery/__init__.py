"""Recovery: training that makes up for what pruning cost, by low-rank adapters on what is left.

`settings` says how, `lessons` reads what is learned from, `adapters` puts adapters (LoRA, through
peft) around a pruned model's matrices and takes them off again, `training` is the loop, and
`folder` keeps what has been learned. What comes out is a plan: the one that was trained, with other
numbers in its matrices. Nothing here writes to a model's weights.
"""
