"""Training by many processes: tables spread over ranks, MLPs replicated, one result."""
