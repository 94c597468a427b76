"""What a fine-tuning costs here, and what it costs done plainly: one program, one run."""
