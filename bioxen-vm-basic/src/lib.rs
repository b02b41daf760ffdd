//! bioxen-vm-basic
