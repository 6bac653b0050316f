"""Tools to write kernels as LLVM IR: emitters, and the engine that compiles and loads them."""
