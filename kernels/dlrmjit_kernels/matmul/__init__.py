"""The loops around the register tile: dispatch, plan, packing, split reductions, tuning."""
