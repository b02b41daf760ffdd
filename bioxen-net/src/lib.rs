//! bioxen-net
