"""Programs of many ranks on several hosts, which are network namespaces of one machine."""
