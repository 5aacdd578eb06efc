"""The options of a training run, one file for each group of the form."""
