"""What the pipeline and the command call: models by name, numbers in, answers out."""
