//! bioxen-vm-core
