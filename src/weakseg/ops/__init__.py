"""Pure functions: tensors in, tensors out; no files, devices, logging or globals."""
