"""How many candidates of a query are ranked: values, prices, control."""
