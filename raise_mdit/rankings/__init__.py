"""Rankings of a pool that are made once, before anything is trained, by what is known of it."""
