//! bioxen
