//! Secrets: what must neither be guessable nor repeatable.

use ring::rand::{SecureRandom, SystemRandom};

use crate::seed::uuid_text;

/// 128 bits from the operating system.
fn bits() -> u128 {
    let mut bytes = [0; 16];
    // Without randomness nothing could be kept apart, TLS included; Linux always has it.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        tracing::error!("the operating system gives no random numbers");
    }
    u128::from_ne_bytes(bytes)
}

/// A reference that nobody can guess.
pub(crate) fn reference() -> String {
    format!("OpaqueRef:{}", uuid_text(bits()))
}

/// A password that nobody can guess.
pub(crate) fn password() -> String {
    format!("{:032x}", bits())
}

/// A machine id that no other machine has.
pub(crate) fn machine_id() -> String {
    format!("{:032x}", bits())
}

/// Compares without telling by the time where the difference is.
pub(crate) fn same(left: &str, right: &str) -> bool {
    let difference = left
        .bytes()
        .zip(right.bytes())
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    left.len() == right.len() && difference == 0
}
