//! bioxen-vm-xcpng
