//! bioxen-curator
