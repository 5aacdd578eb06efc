"""A folder of pictures as training data: records, plan of buckets and steps, pixels."""
