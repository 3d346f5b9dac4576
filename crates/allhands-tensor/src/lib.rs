//! Dtypes, dense tensors, reduction kernels and the device trait of allhands.
