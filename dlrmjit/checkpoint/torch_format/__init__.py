"""The reference program's ``.pt`` files, read and written without PyTorch."""
