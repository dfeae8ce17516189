"""Judge a model and publish it: what the flow and the commands share.

What is given a store raises the errors that `fmnist.registry` states.
"""
