"""The model being tuned: loading, encoding into batches, training, evaluation."""
