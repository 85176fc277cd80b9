"""From a training run to the files a device runs."""
