"""Environment families; each module offers `make(name, **kwargs)` and `task_names()`."""
