"""Judge a model and publish it: what the flow and the commands share."""
