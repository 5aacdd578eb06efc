"""Jobs: what is to be done, the forms that say so, the queue that does it."""
