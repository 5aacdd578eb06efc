"""Model families: what a checkpoint is, what its parts are called. Names and shapes only, no torch."""
