"""What benchmarks measure beside a training: nothing of the package imports it."""
