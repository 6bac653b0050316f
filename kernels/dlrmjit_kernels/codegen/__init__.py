"""Kernels written as LLVM IR: their specifications, their emitters, and the engine behind them."""
