"""Where candidates come from: data sets read, and candidates synthesised from them."""
